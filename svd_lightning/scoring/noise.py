"""Rounding noise: how far log p − log q is from what the same weights give in float32."""

import math

import torch
from peft import PeftModel
from torch import Tensor

from svd_lightning.data import Batch
from svd_lightning.functional import confidence_mask, expectation, log_probabilities
from svd_lightning.models.float32 import in_float32
from svd_lightning.models.hidden import base_head, base_hidden_states, tuned_head, tuned_hidden_states
from svd_lightning.processes import gather, several_processes
from svd_lightning.records import NoiseRecord
from svd_lightning.scoring.tokens import CHUNK_ELEMENTS, completion_states, completion_tokens, head_logits

TOKENS = 64
"""How many label tokens a process looks at: noise is the same everywhere, and float32 takes time."""


class NoiseMeter:
    """Measures signal and rounding noise of r = log p − log q on a few dozen label tokens.

    In the arithmetic of decoding r̃ = r + ε, where r is that of the same weights in float32. With p of float32,
    restricted to the mask, signal² is the mean of Var_p[r] over the tokens and noise² that of Var_p[ε].

    Args:
        peft_model: in evaluation mode.
        alpha: the confidence mask; None takes the whole vocabulary.
    """

    def __init__(self, peft_model: PeftModel, alpha: float | None) -> None:
        self._peft_model, self._alpha = peft_model, alpha
        self._sums = torch.zeros(3, dtype=torch.float64)

    def enough(self) -> bool:
        """Return whether all processes together have seen `TOKENS` tokens. Call it on every process."""
        return self._total()[2].item() >= TOKENS

    def add(self, batch: Batch) -> None:
        """Look at the first label tokens of a batch: input_ids, attention_mask and labels [B, T]."""
        tokens, model = completion_tokens(batch), self._peft_model
        vocabulary = model.get_base_model().config.get_text_config().vocab_size
        size = math.ceil(CHUNK_ELEMENTS / vocabulary)
        narrow = self._states(batch)
        with in_float32(model.get_base_model()):
            wide = self._states(batch)
        heads = tuned_head(model), base_head(model)
        parts = (states.split(size) for states in (*narrow, *wide, tokens.labels[:TOKENS]))
        for tuned, base, exact_tuned, exact_base, labels in zip(*parts, strict=True):
            found = head_logits(heads, tuned, base, labels)
            with in_float32(model.get_base_model()):
                exact = head_logits(heads, exact_tuned, exact_base, labels)
            signal, noise = variances(
                (found.tuned_logits, found.base_logits), (exact.tuned_logits, exact.base_logits), self._alpha
            )
            self._sums += torch.stack([signal.sum(), noise.sum(), torch.tensor(len(labels))]).double().cpu()

    def _states(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the hidden states of both models at the first label tokens, [n, H]."""
        ids, mask, tokens = batch["input_ids"], batch["attention_mask"], completion_tokens(batch)
        both = tuned_hidden_states(self._peft_model, ids, mask), base_hidden_states(self._peft_model, ids, mask)
        tuned, base = (completion_states(hidden, tokens)[:TOKENS] for hidden in both)
        return tuned, base

    def _total(self) -> Tensor:
        return sum(gather(self._sums), torch.zeros(3)) if several_processes() else self._sums

    def result(self) -> NoiseRecord:
        """Return what all processes have measured. Call it on every process."""
        signal, noise, tokens = self._total().tolist()
        return {
            "signal": math.sqrt(signal / tokens),
            "noise": math.sqrt(noise / tokens),
            "share": signal / (signal + noise) if noise else 1.0,
            "tokens": int(tokens),
        }


def variances(
    found: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor], alpha: float | None
) -> tuple[Tensor, Tensor]:
    """Return Var_p[r] and Var_p[r̃ − r] of each token, nats², float32 [n] each.

    Args:
        found, exact: tuned and base logits, [n, V] each, in the arithmetic of decoding and in float32.
        alpha: the confidence mask; None takes the whole vocabulary.
    """
    log_p, log_q = map(log_probabilities, exact)
    noisy_p, noisy_q = map(log_probabilities, found)
    inside = log_p if alpha is None else log_p.masked_fill(~confidence_mask(exact[0], alpha), -torch.inf)
    weights = inside.log_softmax(dim=-1)
    ratio = log_p - log_q
    error = (noisy_p - noisy_q) - ratio
    return _variance(weights, ratio), _variance(weights, error)


def _variance(log_p: Tensor, values: Tensor) -> Tensor:
    """Return E_p[(v − E_p v)²], [n, V] → [n]."""
    centred = values - expectation(log_p, values).unsqueeze(-1)
    return expectation(log_p, centred.square())
