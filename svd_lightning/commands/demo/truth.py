"""Compare distributions with the true one, which the demo's task knows exactly."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from torch import Tensor

from svd_lightning.commands.demo.task import Language
from svd_lightning.functional import label_nll
from svd_lightning.scoring.tokens import IGNORED, logit_chunks
from svd_lightning.steering import SteeringFunction, other_scales


class Nearness(NamedTuple):
    """Means over completion tokens."""

    nll: float
    """−log-probability of the labels, in nats."""
    kl: float
    """KL(truth ‖ model), in nats: how far the model is from the truth."""
    accuracy: float
    """Share of tokens whose label is ranked first."""


@torch.no_grad()
def nearness(
    peft_model: PeftModel,
    batches: Iterable[dict[str, Any]],
    truth: Language,
    distributions: Mapping[str, SteeringFunction],
) -> dict[str, Nearness]:
    """Compare several distributions with the truth, in one pass of both models.

    Args:
        peft_model: in evaluation mode, on the CPU.
        batches: scoring batches of diaries.
        truth: the language that the diaries are written in.
        distributions: by name, steerings or other functions of tuned and base logits.
    """
    sums = {name: torch.zeros(3, dtype=torch.float64) for name in distributions}
    count = 0
    for batch in batches:
        true_log_probs = truth.log_probs(batch["input_ids"], batch["labels"] != IGNORED)
        start = 0
        for chunk in logit_chunks(peft_model, batch, scales=other_scales(distributions.values())):
            part = true_log_probs[start : (start := start + len(chunk.labels))]
            for name, steer in distributions.items():
                sums[name] += _sums(chunk.steered(steer), chunk.labels, part)
        count += start
    return {name: Nearness(*(total / count).tolist()) for name, total in sums.items()}


def _sums(logits: Tensor, labels: Tensor, true_log_probs: Tensor) -> Tensor:
    """Return Σ over tokens of NLL, KL(truth ‖ model) and hits, float64 [3]."""
    log_p = logits.double().log_softmax(dim=-1)
    true_p = true_log_probs.exp()
    kl = torch.special.xlogy(true_p, true_p).sum() - (true_p * log_p).sum()
    hits = (logits.argmax(dim=-1) == labels).sum()
    return torch.stack([label_nll(logits, labels).double().sum(), kl, hits.double()])
