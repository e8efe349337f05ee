"""Drift: how far a distribution is from the tuned model on text outside the answers."""

from collections.abc import Hashable, Mapping

import torch
from peft import PeftModel

from svd_lightning.data import Batch
from svd_lightning.data.collate import IGNORED
from svd_lightning.functional import kl_from_log_probs, log_probabilities
from svd_lightning.processes import gather, several_processes
from svd_lightning.scoring.tokens import logit_chunks
from svd_lightning.steering import SteeringFunction, other_scales

TOKENS = 256
"""How many tokens of prompts are looked at."""


class DriftMeter:
    """Measures mean KL(p̂ ‖ p) in nats at the prompts' own tokens, p tuned, p̂ steered or corrected.

    Whoever wrote the prompts did not write answers: what a candidate changes there it changes in other text too.
    (The other direction, KL(p ‖ p̂), is infinite where tokens outside the mask are forbidden.)

    Args:
        peft_model: in evaluation mode.
        steerings: what is compared with the tuned model, by any key.
    """

    def __init__(self, peft_model: PeftModel, steerings: Mapping[Hashable, SteeringFunction]) -> None:
        self._peft_model, self._steerings = peft_model, dict(steerings)
        self._sums = torch.zeros(len(self._steerings) + 1, dtype=torch.float64)

    def enough(self) -> bool:
        """Return whether all processes together have seen `TOKENS` tokens. Call it on every process."""
        return self._total()[-1].item() >= TOKENS

    def add(self, batch: Batch) -> None:
        """Look at tokens of a batch's prompts, evenly spaced: input_ids, attention_mask and labels [B, T]."""
        prompt = batch["attention_mask"].bool() & (batch["labels"] == IGNORED)
        prompt[:, 1:] &= batch["attention_mask"][:, :-1].bool()  # a token counts that another one precedes
        prompt[:, 0] = False
        places = prompt.flatten().nonzero().squeeze(-1)
        chosen = torch.zeros_like(prompt).view(-1).index_fill(0, places[:: max(1, len(places) // TOKENS)], True)
        labels = batch["input_ids"].where(chosen.view_as(prompt), IGNORED)
        scales = other_scales(self._steerings.values())
        for chunk in logit_chunks(self._peft_model, {**batch, "labels": labels}, scales=scales):
            log_p = log_probabilities(chunk.tuned_logits)
            moved = (log_probabilities(chunk.steered(one)) for one in self._steerings.values())
            drifts = [kl_from_log_probs(log_p_hat, log_p).sum() for log_p_hat in moved]
            self._sums += torch.tensor([*drifts, len(chunk.labels)], dtype=torch.float64)

    def _total(self) -> torch.Tensor:
        return torch.stack(gather(self._sums)).sum(dim=0) if several_processes() else self._sums

    def result(self) -> dict[Hashable, float]:
        """Return the drift of each; nothing where prompts have one token at most. Call it on every process."""
        *sums, tokens = self._total().tolist()
        return {key: one / tokens for key, one in zip(self._steerings, sums, strict=True)} if tokens else {}
