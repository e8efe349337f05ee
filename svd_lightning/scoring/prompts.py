"""Log-probabilities of a text's own tokens under one steering, with the likeliest tokens beside each."""

from typing import NamedTuple

import torch
from peft import PeftModel
from torch import Tensor

from svd_lightning.functional import at_label, log_probabilities
from svd_lightning.scoring.labels import finite_penalty
from svd_lightning.scoring.tokens import logit_chunks
from svd_lightning.steering import SteeringFunction, other_scales


class PromptScores(NamedTuple):
    """Scores of the tokens after the first one of a text of T tokens, in its order."""

    log_probs: Tensor
    """float32 [T − 1]"""
    top_log_probs: Tensor
    """The k largest log-probabilities at each token, float32 [T − 1, k]."""
    top_tokens: Tensor
    """Their tokens, int64 [T − 1, k]."""


@torch.no_grad()
def score_prompt(peft_model: PeftModel, ids: Tensor, steering: SteeringFunction, *, tops: int) -> PromptScores:
    """Score the tokens of a text, int64 [T]; a penalty of −∞ counts as 0 (`finite_penalty`).

    Args:
        peft_model: in evaluation mode.
        ids: the text.
        steering: whose log-probabilities.
        tops: k, how many of the likeliest tokens are told.

    Raises:
        InputError: for logits that hold NaN or +∞.
    """
    row, steer = ids.unsqueeze(0).to(peft_model.device), finite_penalty(steering)
    batch = {"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row}
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for chunk in logit_chunks(peft_model, batch, scales=other_scales([steer])):
        log_p = log_probabilities(chunk.steered(steer))
        best = log_p.topk(tops, dim=-1)
        parts.append((at_label(log_p, chunk.labels).cpu(), best.values.cpu(), best.indices.cpu()))
    if not parts:  # one token, which nothing predicts
        return PromptScores(torch.empty(0), torch.empty(0, tops), torch.empty(0, tops, dtype=torch.long))
    return PromptScores(*map(torch.cat, zip(*parts, strict=True)))
