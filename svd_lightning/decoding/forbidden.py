"""Tokens that λ = −∞ forbids, beside transformers' logits processors.

A processor cannot calculate with −∞, and may ban every token that λ leaves. So the processors read a forbidden
token as the tuned model has it; then it is forbidden again, unless they have banned all others: such a step takes
the tuned model's order among the tokens that may be written.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import LogitsProcessor

StepLogits = Callable[[Tensor], tuple[Tensor, Tensor]]
"""The text so far, [B, T] → the tuned and the steered logits of its next token, [B, V] each."""


def shown(steered: Tensor, tuned_logits: Tensor) -> Tensor:
    """Return steered logits as λ = 0 gives them: a forbidden token has the tuned model's; [..., V] → [..., V]."""
    return torch.where(steered == -math.inf, tuned_logits.to(steered.dtype), steered)


class ShowForbidden(LogitsProcessor):
    """Comes before all processors: gives a forbidden token the tuned model's logit, as λ = 0 would."""

    def __init__(self, step_logits: StepLogits) -> None:
        self._step_logits = step_logits
        self.forbidden: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Fill in the forbidden tokens of the steered logits, or of their log-softmax, [B, V] → [B, V]."""
        tuned, steered = (logits.to(scores) for logits in self._step_logits(input_ids))
        shift = scores.amax(dim=-1, keepdim=True) - steered.amax(dim=-1, keepdim=True)  # 0, or −log Σ exp(ẑ)
        self.forbidden = scores == -math.inf
        return shown(scores, tuned + shift)


class ForbidAgain(LogitsProcessor):
    """Comes after the processors that ban and before those that cut the tail (temperature, top-k, top-p)."""

    def __init__(self, shown: ShowForbidden) -> None:
        self._shown = shown

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Forbid the tokens again, but not in rows without another one to write: [B, V] → [B, V]."""
        assert self._shown.forbidden is not None, "ShowForbidden comes first"
        rest = scores.masked_fill(self._shown.forbidden, -math.inf)
        # `remove_invalid_values` writes the smallest number for −∞.
        return torch.where((rest > torch.finfo(rest.dtype).min).any(dim=-1, keepdim=True), rest, scores)
