"""The labelled tokens of a batch, and both models' logits of them, chunk by chunk."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from peft import PeftModel
from torch import Tensor

from svd_lightning.data.collate import IGNORED
from svd_lightning.errors import InputError
from svd_lightning.functional import check_logits
from svd_lightning.models.hidden import (
    Head,
    SharedPrompts,
    base_head,
    base_hidden_states,
    tuned_head,
    tuned_hidden_states,
)
from svd_lightning.models.scale import scaled
from svd_lightning.objective import LabelCollector, TokenCollector
from svd_lightning.steering import SteeringFunction, adapter_scale, steered_logits

CHUNK_ELEMENTS = 2**23
"""Default chunk: as few tokens as bring one float32 [n, V] tensor to 32 MiB. glibc maps and returns blocks of that
size one by one; smaller ones fragment its heap (2.5 GiB instead of 0.3 at V = 152k)."""
GPU_ELEMENTS = 2**25
"""The most on a GPU, which larger matrices keep busy: one such tensor has 128 MiB, and some twelve are in use."""


class CompletionTokens(NamedTuple):
    """The places of the scored tokens, row by row; every field int64 [N]."""

    rows: Tensor
    positions: Tensor
    """Column t of the label itself; column t − 1 predicts it."""
    labels: Tensor


class LogitChunk(NamedTuple):
    """Both models' logits of n scored tokens, their labels, and what the tuned model gives its head."""

    tuned_logits: Tensor
    """[n, V]"""
    base_logits: Tensor
    """[n, V]"""
    labels: Tensor
    """int64 [n]"""
    tuned_states: Tensor
    """[n, H]"""
    others: Mapping[float, Tensor] = MappingProxyType({})
    """The tuned logits, [n, V], at other scales of the adapter."""

    def at(self, scale: float) -> Tensor:
        """Return the tuned logits at a scale of the adapter, 1 or one of `others`, [n, V]."""
        return self.tuned_logits if scale == 1.0 else self.others[scale]

    def steered(self, steering: SteeringFunction) -> Tensor:
        """Return the logits of a steering function with its correction, [n, V]."""
        return steered_logits(steering, self.at(adapter_scale(steering)), self.base_logits, self.tuned_states)


def completion_tokens(batch: Mapping[str, Tensor]) -> CompletionTokens:
    """Find the tokens of a batch that are scored: labelled, and preceded by a token that predicts them.

    Args:
        batch: input_ids, attention_mask and labels, each [B, T]; labels are not shifted, −100 elsewhere.

    Raises:
        InputError: for tensors that are missing or differ in shape.
    """
    names = ("input_ids", "attention_mask", "labels")
    missing = [name for name in names if name not in batch]
    if missing:
        raise InputError(f"batch: expected {', '.join(names)}, got {sorted(batch)}; {missing} missing")
    shapes = {name: tuple(batch[name].shape) for name in names}
    if len(set(shapes.values())) != 1 or batch["labels"].ndim != 2:
        raise InputError(f"batch: expected three tensors of one shape [B, T], got {shapes}")
    labels, mask = batch["labels"], batch["attention_mask"].bool()
    scored = (labels[:, 1:] != IGNORED) & mask[:, 1:] & mask[:, :-1]
    rows, predecessors = scored.nonzero(as_tuple=True)
    return CompletionTokens(rows, predecessors + 1, labels[rows, predecessors + 1])


def shared_prompts(batch: Mapping[str, Tensor]) -> SharedPrompts | None:
    """Return the tokens with which the options of each question begin; None for a batch of another kind.

    It goes by the kind of batch alone: under a sharded strategy every process must run as many forwards.

    Args:
        batch: a `QuestionBatch`.
    """
    if "question" not in batch:
        return None
    columns = min(int(batch["differ"].min()), batch["input_ids"].shape[1] - 1)
    return SharedPrompts(columns, batch["question"])


def completion_states(hidden: Tensor, tokens: CompletionTokens) -> Tensor:
    """Pick the hidden states that predict the scored tokens: [B, T, H] → [N, H]."""
    return hidden[tokens.rows, tokens.positions - 1]


def placed(
    chunks: Iterable[LogitChunk], tokens: CompletionTokens
) -> Iterator[tuple[CompletionTokens, LogitChunk]]:
    """Yield each chunk of a batch with the places of its tokens."""
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
    scales: Sequence[float] = (),
) -> Iterator[LogitChunk]:
    """Yield both models' logits of the scored tokens, a few at a time; only those tokens pass the head.

    Args:
        peft_model: any PEFT model around a causal LM, in evaluation mode.
        batch: as in `completion_tokens`, on the model's device; a `QuestionBatch` has its prompts computed once.
        chunk_size: tokens per chunk; None takes `chunk_length`.
        base_states: hidden states of the base model at the scored tokens, [N, H] on any device, from a snapshot
            (`completion_states` of `base_hidden_states`); they replace the base forward.
        scales: of the adapter, at which the tuned model runs too.

    Raises:
        InputError: as `check_adapter` and `completion_tokens`; for base states of another number of tokens;
            for a scale of an adapter that has none; for logits that hold NaN or +∞.
    """
    tokens = completion_tokens(batch)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    shared = shared_prompts(batch)
    if base_states is None:
        base_states = completion_states(base_hidden_states(peft_model, ids, mask, shared=shared), tokens)
    elif len(base_states) != len(tokens.labels):
        raise InputError(
            f"base_states: expected one hidden state per scored token ({len(tokens.labels)}), got "
            f"{len(base_states)}; make the snapshot again from the same batches in the same order"
        )
    tuned_states = completion_states(tuned_hidden_states(peft_model, ids, mask, shared=shared), tokens)
    further = {scale: scaled_states(peft_model, batch, tokens, scale) for scale in scales}
    size = chunk_size or chunk_length(peft_model)
    heads = tuned_head(peft_model), base_head(peft_model)
    parts = {scale: iter(states.split(size)) for scale, states in further.items()}
    for tuned, base, labels in zip(
        tuned_states.split(size), base_states.split(size), tokens.labels.split(size), strict=True
    ):
        chunk = head_logits(heads, tuned, base.to(tuned.device), labels)
        others = {scale: scaled_logits(peft_model, next(part), scale) for scale, part in parts.items()}
        yield chunk._replace(others=others)


def chunk_length(peft_model: PeftModel) -> int:
    """Return how many tokens to score at a time: what `chunk_elements` allows on the model's device."""
    model = peft_model.get_base_model()
    return math.ceil(chunk_elements(free_memory(model.device)) / model.config.get_text_config().vocab_size)


def chunk_elements(free: int | None) -> int:
    """Return the size of one [n, V] tensor of a chunk, in elements.

    Args:
        free: bytes of memory that the GPU has left, of which a chunk takes a quarter at most; None on a CPU.

    >>> chunk_elements(None) * 4 // 2**20, chunk_elements(64 * 2**30) * 4 // 2**20, chunk_elements(0)
    (32, 128, 1)
    """
    return CHUNK_ELEMENTS if free is None else min(GPU_ELEMENTS, max(1, free // (4 * 4 * 12)))


def free_memory(device: torch.device) -> int | None:
    """Return how many bytes a GPU has left for tensors, those that the allocator holds back included; or None."""
    if device.type != "cuda":
        return None
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held


def scaled_states(
    peft_model: PeftModel, batch: Mapping[str, Tensor], tokens: CompletionTokens, scale: float
) -> Tensor:
    """Return what the tuned model at a scale of its adapter gives its head at the scored tokens, [N, H]."""
    with scaled(peft_model, scale):
        hidden = tuned_hidden_states(
            peft_model, batch["input_ids"], batch["attention_mask"], shared=shared_prompts(batch)
        )
    return completion_states(hidden, tokens)


def scaled_logits(peft_model: PeftModel, states: Tensor, scale: float) -> Tensor:
    """Return the logits of the tuned model at a scale of its adapter, [n, V], of `scaled_states` [n, H]."""
    with scaled(peft_model, scale):
        return tuned_head(peft_model)(states)


def head_logits(heads: tuple[Head, Head], tuned: Tensor, base: Tensor, labels: Tensor) -> LogitChunk:
    """Run the tuned and the base head on both models' hidden states [n, H] of the labels.

    Raises:
        InputError: for logits that hold NaN or +∞.
    """
    chunk = LogitChunk(heads[0](tuned), heads[1](base), labels, tuned)
    check_logits("the tuned model's logits", chunk.tuned_logits)
    check_logits("the base model's logits", chunk.base_logits)
    return chunk


def add_tokens(
    into: TokenCollector,
    chunk: LogitChunk,
    tokens: CompletionTokens,
    index: Tensor,
    *,
    among: Tensor | None = None,
) -> None:
    """Add the tokens of a chunk to a table.

    Args:
        into: collects the table.
        chunk: both models' logits of n tokens.
        tokens: their places in the batch.
        index: number of each row's example, int64 [B].
        among: the rows whose tokens are added, bool [B]; None for all.
    """
    tokens, chunk = _among(among, tokens, chunk)
    into.update(chunk.tuned_logits, chunk.base_logits, chunk.labels, index[tokens.rows], tokens.positions)


def add_labels(
    into: LabelCollector,
    chunk: LogitChunk,
    tokens: CompletionTokens,
    index: Tensor,
    *,
    among: Tensor | None = None,
) -> None:
    """Add the tokens of a chunk to what corrections need; arguments as `add_tokens` takes them."""
    tokens, chunk = _among(among, tokens, chunk)
    into.update(chunk.tuned_logits, chunk.tuned_states, chunk.labels, index[tokens.rows], tokens.positions)


def _among(
    among: Tensor | None, tokens: CompletionTokens, chunk: LogitChunk
) -> tuple[CompletionTokens, LogitChunk]:
    if among is None:
        return tokens, chunk
    keep = among[tokens.rows]
    return CompletionTokens(*(field[keep] for field in tokens)), LogitChunk(
        chunk.tuned_logits[keep], chunk.base_logits[keep], chunk.labels[keep], chunk.tuned_states[keep]
    )
