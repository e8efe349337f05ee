"""Teacher-forced log-probabilities under base, tuned and steered distributions, chunk by chunk over tokens."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from peft import PeftModel
from torch import Tensor

from svd_lightning.errors import InputError
from svd_lightning.functional import check_logits, kl_from_log_probs, label_nll, log_probabilities
from svd_lightning.models.hidden import (
    base_head,
    base_hidden_states,
    right_padded,
    tuned_head,
    tuned_hidden_states,
)
from svd_lightning.steering import RowSteering, Steering, SteeringFunction

IGNORED = -100
"""Label of the tokens that are not scored."""

CHUNK_ELEMENTS = 2**23
"""Default chunk: as few tokens as bring one float32 [n, V] tensor to 32 MiB. Blocks of that size glibc maps and
returns one by one; smaller ones fragment its heap (2.5 GiB instead of 0.3 at V = 152k)."""


class CompletionTokens(NamedTuple):
    """Where the scored tokens stand, row by row; every field int64 [N]."""

    rows: Tensor
    positions: Tensor
    """Column t of the label itself; column t − 1 predicts it."""
    labels: Tensor


class LogitChunk(NamedTuple):
    """Both models' logits of n scored tokens, and the tokens."""

    tuned_logits: Tensor
    """[n, V]"""
    base_logits: Tensor
    """[n, V]"""
    labels: Tensor
    """int64 [n]"""


class LabelScores(NamedTuple):
    """What one distribution says of n scored tokens."""

    log_probs: Tensor
    """Log-probabilities of the labels, float32 [n]; −∞ where it forbids the label."""
    kl: Tensor
    """KL(· ‖ q) from it to the base, in nats, float32 [n]."""


@dataclass(frozen=True)
class TokenScores:
    """What three distributions say about each scored token; every field [N], in the order of the rows."""

    rows: Tensor
    """Row of the batch, int64."""
    positions: Tensor
    """Column of the token in its row, int64."""
    base: Tensor
    """log q_y, float32; −∞ where the base forbids the label."""
    tuned: Tensor
    """log p_y, float32."""
    steered: Tensor
    """Log-probability under the steered distribution, float32."""
    divergence: Tensor
    """KL(p ‖ q) in nats, float32."""
    agreement: Tensor
    """Whether the tuned and the base model rank the same token first, bool."""

    def row_sums(self, log_probabilities: Tensor, batch_size: int) -> Tensor:
        """Σ over each row's tokens of one of the fields: [N] → [batch_size]; the score of an answer."""
        return log_probabilities.new_zeros(batch_size).index_add(0, self.rows, log_probabilities)


def completion_tokens(batch: Mapping[str, Tensor]) -> CompletionTokens:
    """The tokens of a batch that are scored: labelled, and preceded by a token that predicts them.

    Args:
        batch: input_ids, attention_mask and labels, each [B, T]; labels are not shifted, −100 elsewhere.

    Raises:
        InputError: for tensors that are missing or differ in shape.
    """
    _check_batch(batch)
    labels, mask = batch["labels"], batch["attention_mask"].bool()
    scored = (labels[:, 1:] != IGNORED) & mask[:, 1:] & mask[:, :-1]
    rows, predecessors = scored.nonzero(as_tuple=True)
    return CompletionTokens(rows, predecessors + 1, labels[rows, predecessors + 1])


def shared_columns(batch: Mapping[str, Tensor]) -> int:
    """How many leading tokens, none of them scored, all rows of a batch have in common.

    Not found out unasked: under a sharded strategy every rank must run the same number of forwards.

    Raises:
        InputError: where the rows have none in common.
    """
    _check_batch(batch)
    order = right_padded(batch["attention_mask"])
    ids, mask, labels = (batch[n].gather(1, order) for n in ("input_ids", "attention_mask", "labels"))
    same = ((ids == ids[:1]) & mask.bool() & (labels == IGNORED)).all(dim=0)
    count = min(int(same.cumprod(dim=0).sum()), ids.shape[1] - 1)
    if count < 1:
        raise InputError(
            "shared_prompt: expected rows that begin with the same prompt, got rows that differ from the first "
            "token on; pass the options of one question at a time, or shared_prompt=False"
        )
    return count


def completion_states(hidden: Tensor, tokens: CompletionTokens) -> Tensor:
    """Hidden states that predict the scored tokens: [B, T, H] → [N, H]."""
    return hidden[tokens.rows, tokens.positions - 1]


def placed(
    chunks: Iterable[LogitChunk], tokens: CompletionTokens
) -> Iterator[tuple[CompletionTokens, LogitChunk]]:
    """Each chunk of a batch with the places of its tokens."""
    start = 0
    for chunk in chunks:
        part = slice(start, start := start + len(chunk.labels))
        yield CompletionTokens(*(field[part] for field in tokens)), chunk


def logit_chunks(
    peft_model: PeftModel,
    batch: Mapping[str, Tensor],
    *,
    chunk_size: int | None = None,
    base_states: Tensor | None = None,
    shared_prompt: bool = False,
) -> Iterator[LogitChunk]:
    """Both models' logits of the scored tokens, a few at a time; only those tokens pass the head.

    Args:
        peft_model: any PEFT model around a causal LM, in evaluation mode.
        batch: as in `completion_tokens`, on the model's device.
        chunk_size: tokens per chunk; None brings one float32 [n, V] tensor to 32 MiB.
        base_states: hidden states of the base model at the scored tokens, [N, H] on any device (a reference
            snapshot: `completion_states` of `base_hidden_states`); they replace the base forward.
        shared_prompt: the rows are options of one question; their common prompt is computed once.

    Raises:
        InputError: as `check_adapter` and `completion_tokens`; for base states of another number of tokens;
            for rows without a common prompt; for logits that hold NaN or +∞.
    """
    tokens = completion_tokens(batch)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    shared = shared_columns(batch) if shared_prompt else 0
    if base_states is None:
        base_states = completion_states(base_hidden_states(peft_model, ids, mask, shared_columns=shared), tokens)
    elif len(base_states) != len(tokens.labels):
        raise InputError(
            f"base_states: expected one hidden state per scored token ({len(tokens.labels)}), got "
            f"{len(base_states)}; take the snapshot again from the same batches in the same order"
        )
    tuned_states = completion_states(tuned_hidden_states(peft_model, ids, mask, shared_columns=shared), tokens)
    vocabulary = peft_model.get_base_model().config.get_text_config().vocab_size
    size = chunk_size or math.ceil(CHUNK_ELEMENTS / vocabulary)
    heads = tuned_head(peft_model), base_head(peft_model)
    for tuned, base, labels in zip(
        tuned_states.split(size), base_states.split(size), tokens.labels.split(size), strict=True
    ):
        chunk = LogitChunk(heads[0](tuned), heads[1](base.to(tuned.device)), labels)
        check_logits("the tuned model's logits", chunk.tuned_logits)
        check_logits("the base model's logits", chunk.base_logits)
        yield chunk


def score_tokens(
    peft_model: PeftModel,
    batch: Mapping[str, Tensor],
    steering: SteeringFunction,
    *,
    chunk_size: int | None = None,
    base_states: Tensor | None = None,
    shared_prompt: bool = False,
) -> TokenScores:
    """Log-probabilities of the labels under base, tuned and steered distributions.

    A penalty of −∞ would make an answer with one unconfident token impossible: a `Steering` that has it is
    scored with penalty 0 instead (`finite_penalty`), so that the mask only silences the steering.

    Args:
        peft_model, batch, chunk_size, base_states, shared_prompt: as in `logit_chunks`.
        steering: maps (tuned logits, base logits) to steered logits; a `RowSteering` each row by its own.

    Returns:
        One entry per scored token. Peak memory beyond the hidden states is about 10 × chunk × V × 4 bytes.

    Raises:
        InputError: as `logit_chunks`.
    """
    tokens = completion_tokens(batch)
    steer, parts = finite_penalty(steering), []
    chunks = logit_chunks(
        peft_model, batch, chunk_size=chunk_size, base_states=base_states, shared_prompt=shared_prompt
    )
    for here, chunk in placed(chunks, tokens):
        parts.append(_score_chunk(chunk, steer.of(here.rows) if isinstance(steer, RowSteering) else steer))
    base, tuned, steered, divergence, agreement = map(torch.cat, zip(*parts, strict=True))
    return TokenScores(tokens.rows, tokens.positions, base, tuned, steered, divergence, agreement)


def score_chunk(chunk: LogitChunk, steerings: Mapping[str, SteeringFunction]) -> dict[str, LabelScores]:
    """Log-probabilities of a chunk's labels under several distributions, from the same logits.

    Args:
        chunk: of `logit_chunks`.
        steerings: by name; a penalty of −∞ becomes 0, as in `score_tokens`.
    """
    tuned, base, labels = chunk
    log_q, found = log_probabilities(base), {}
    for name, steering in steerings.items():
        logits = finite_penalty(steering)(tuned, base)
        log_p = log_probabilities(logits)
        found[name] = LabelScores(_at_labels(log_p, logits, labels), kl_from_log_probs(log_p, log_q))
    return found


def finite_penalty(steering: SteeringFunction) -> SteeringFunction:
    """The same steering with a penalty of −∞ replaced by 0; anything else is returned as it is."""
    if isinstance(steering, RowSteering):
        return steering.map(finite_penalty)
    if isinstance(steering, Steering) and math.isinf(steering.penalty):
        return steering.with_penalty(0.0)
    return steering


def _score_chunk(chunk: LogitChunk, steering: SteeringFunction) -> tuple[Tensor, ...]:
    tuned, base, labels = chunk
    steered = -label_nll(steering(tuned, base), labels)
    log_p, log_q = log_probabilities(tuned), log_probabilities(base)
    divergence = kl_from_log_probs(log_p, log_q)
    agreement = tuned.argmax(dim=-1) == base.argmax(dim=-1)
    return _at_labels(log_q, base, labels), _at_labels(log_p, tuned, labels), steered, divergence, agreement


def _at_labels(log_probability: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probabilities of the labels without the floor that keeps ratios finite: [n, V] → [n]."""
    index = labels.unsqueeze(-1)
    forbidden = logits.gather(-1, index).isneginf()
    return log_probability.gather(-1, index).masked_fill(forbidden, -math.inf).squeeze(-1)


def _check_batch(batch: Mapping[str, Tensor]) -> None:
    names = ("input_ids", "attention_mask", "labels")
    missing = [name for name in names if name not in batch]
    if missing:
        raise InputError(f"batch: expected {', '.join(names)}, got {sorted(batch)}; {missing} missing")
    shapes = {name: tuple(batch[name].shape) for name in names}
    if len(set(shapes.values())) != 1 or batch["labels"].ndim != 2:
        raise InputError(f"batch: expected three tensors of one shape [B, T], got {shapes}")
