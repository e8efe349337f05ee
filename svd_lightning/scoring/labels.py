"""Scores of labels under several distributions, from the same logits: log-probability, and KL to the base."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from peft import PeftModel
from torch import Tensor

from svd_lightning.functional import label_nll
from svd_lightning.scoring.few_tokens import ChunkScorer, LabelScores
from svd_lightning.scoring.tokens import LogitChunk, completion_tokens, logit_chunks, placed
from svd_lightning.steering import RowSteering, Steering, SteeringFunction, other_scales


class TokenScores(NamedTuple):
    """Scores of each token under three distributions; every field [N], in the order of the rows."""

    rows: Tensor
    """Row of the batch, int64."""
    positions: Tensor
    """Column of the token in its row, int64."""
    base: Tensor
    """log q_y, float32; −∞ for a label that the base forbids."""
    tuned: Tensor
    """log p_y, float32."""
    steered: Tensor
    """log p_μ of the label, float32."""


def score_tokens(
    peft_model: PeftModel,
    batch: Mapping[str, Tensor],
    steering: SteeringFunction,
    *,
    chunk_size: int | None = None,
    base_states: Tensor | None = None,
) -> TokenScores:
    """Score the labels of a batch under the base, tuned and steered distributions.

    A penalty of −∞ would make an answer with one token outside the mask impossible. A `Steering` that has it is
    scored with penalty 0 instead (`finite_penalty`): outside the mask the tuned logits stay as they are.

    Args:
        peft_model, batch, chunk_size, base_states: as in `logit_chunks`.
        steering: maps (tuned logits, base logits) to steered logits; a `RowSteering` has one for each row.

    Returns:
        One entry per scored token. Peak memory beyond the hidden states is about 10 × chunk × V × 4 bytes.

    Raises:
        InputError: as `logit_chunks`.
    """
    tokens = completion_tokens(batch)
    steer, parts = finite_penalty(steering), []
    chunks = logit_chunks(
        peft_model,
        batch,
        chunk_size=chunk_size,
        base_states=base_states,
        scales=other_scales([steer]),
    )
    for places, chunk in placed(chunks, tokens):
        function = steer.of(places.rows) if isinstance(steer, RowSteering) else steer
        three = chunk.base_logits, chunk.tuned_logits, chunk.steered(function)
        parts.append([-label_nll(logits, chunk.labels) for logits in three])
    return TokenScores(tokens.rows, tokens.positions, *map(torch.cat, zip(*parts, strict=True)))


def score_chunk(chunk: LogitChunk, steerings: Mapping[str, SteeringFunction]) -> dict[str, LabelScores]:
    """Score a chunk's labels under each of several steerings; a penalty of −∞ becomes 0, as in `score_tokens`."""
    scorer = ChunkScorer(chunk)
    return {name: scorer.scores(finite_penalty(steering)) for name, steering in steerings.items()}


def finite_penalty(steering: SteeringFunction) -> SteeringFunction:
    """Replace a penalty of −∞ by 0; return anything else as it is."""
    if isinstance(steering, RowSteering):
        return steering.map(finite_penalty)
    if isinstance(steering, Steering) and math.isinf(steering.penalty):
        return steering.with_penalty(0.0)
    return steering
