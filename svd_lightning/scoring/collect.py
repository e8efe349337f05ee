"""Batches in, calibration tokens out: one collector for steering with a mask, one for steering without."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from peft import PeftModel
from torch import Tensor

from svd_lightning.data import Batch
from svd_lightning.errors import InputError
from svd_lightning.functional import check_logits
from svd_lightning.models.hidden import base_head, base_hidden_states, tuned_head, tuned_hidden_states
from svd_lightning.objective import (
    CalibrationTokens,
    ReferenceSnapshot,
    TokenCollector,
    TokenStream,
    TokenTable,
)
from svd_lightning.scoring.tokens import (
    CHUNK_ELEMENTS,
    CompletionTokens,
    LogitChunk,
    completion_states,
    completion_tokens,
    logit_chunks,
    placed,
)
from svd_lightning.steering import ConfidentSet, Steering, with_built_in


class Collector(Protocol):
    """Takes batches, gives calibration tokens."""

    def add(self, batch: Batch) -> None:
        """Keep what calibration needs of a batch's completion tokens.

        Args:
            batch: input_ids, attention_mask and labels [B, T], and index int64 [B], the number of each example.

        Raises:
            InputError: for logits that are not finite, or an adapter that cannot be switched off.
        """
        ...

    def result(self, tasks: Mapping[int, str] | None = None) -> CalibrationTokens:
        """Give the tokens of all processes, each once. Call it on every rank.

        Args:
            tasks: the task of each example that has one, over all processes.

        Raises:
            InputError: if there is no token.
        """
        ...


def collector(
    peft_model: PeftModel,
    steering: Steering,
    snapshot: ReferenceSnapshot | None = None,
    *,
    alphas: Sequence[float] = (),
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Collector:
    """Make the collector for a steering: of a table where it has a mask, of a stream where it has none.

    Args:
        peft_model: in evaluation mode, now and as long as the tokens are used.
        steering: rules, features and mask; its strengths are ignored.
        snapshot: keeps the base's hidden states, so that from the second time on the base is not run.
        alphas: further masks that the table must serve.
        around: entered around every later pass of a stream, such as a Trainer's precision.
    """
    if steering.alpha is None:
        return StreamCollector(peft_model, snapshot, around=around)
    into = token_collector(steering, alphas=alphas).to(peft_model.device)
    return TableCollector(peft_model, into, snapshot)


def token_collector(steering: Steering, *, alphas: Sequence[float] = ()) -> TokenCollector:
    """Make what collects a table from logits: for the built-in and the steering's rules, at the smallest α.

    Raises:
        InputError: if the steering has no mask: the table holds confident tokens only.
    """
    if steering.alpha is None:
        raise InputError(
            "steering.alpha: the calibration table needs a mask, got null; set alpha (the paper's is 0.1; 0.001 "
            "comes close to none), or give steering.strengths and leave the calibration out"
        )
    rules = {type(rule): rule for rule in (*with_built_in(steering.rules), ConfidentSet())}
    alpha = min(steering.alpha, *alphas, 1.0)
    return TokenCollector(tuple(rules.values()), features=steering.features, alpha=alpha)


class TableCollector:
    """Collects a table: the few numbers per token that a mask leaves.

    Args:
        peft_model: in evaluation mode.
        into: receives the tokens.
        snapshot: keeps the base's hidden states; None runs the base on every batch.
    """

    def __init__(
        self, peft_model: PeftModel, into: TokenCollector, snapshot: ReferenceSnapshot | None = None
    ) -> None:
        self._peft_model, self._into, self._snapshot = peft_model, into, snapshot

    def add(self, batch: Batch) -> None:
        """Add the tokens of a batch, see `Collector`."""
        tokens, states = completion_tokens(batch), None
        if self._snapshot is not None:
            ensure_base_states(self._peft_model, batch, tokens, self._snapshot)
            states = self._snapshot.get(batch["index"].tolist())
        for here, chunk in placed(logit_chunks(self._peft_model, batch, base_states=states), tokens):
            add_tokens(self._into, chunk, here, batch["index"])

    def result(self, tasks: Mapping[int, str] | None = None) -> TokenTable:
        """Give the table, see `Collector`."""
        self._into.tasks = dict(tasks or {})
        found: TokenTable = self._into.compute()
        return found


class StreamCollector:
    """Collects a stream: both models' final hidden states [N, H], from which the logits are made again.

    The decoders run once per batch; from then on every pass over the tokens costs the two heads only, a chunk of
    [n, V] logits at a time. The states lie in CPU memory, or beyond a size in a file (`ReferenceSnapshot`).

    Args:
        peft_model: in evaluation mode, now and in every pass.
        snapshot: keeps the base's hidden states; None keeps them here.
        around: entered around every head, such as a Trainer's precision.
    """

    def __init__(
        self,
        peft_model: PeftModel,
        snapshot: ReferenceSnapshot | None = None,
        *,
        around: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self._peft_model, self._around = peft_model, around
        self._base = ReferenceSnapshot() if snapshot is None else snapshot
        self._tuned = ReferenceSnapshot()
        self._vocabulary = peft_model.get_base_model().config.get_text_config().vocab_size
        self._chunk_size = math.ceil(CHUNK_ELEMENTS / self._vocabulary)
        self._labels: dict[int, Tensor] = {}
        self._positions: dict[int, Tensor] = {}

    def add(self, batch: Batch) -> None:
        """Keep the states of a batch, see `Collector`; an example that is known stays as it is."""
        tokens, examples = completion_tokens(batch), batch["index"].tolist()
        ensure_base_states(self._peft_model, batch, tokens, self._base)
        hidden = tuned_hidden_states(self._peft_model, batch["input_ids"], batch["attention_mask"])
        self._tuned.put(examples, tokens.rows, completion_states(hidden, tokens))
        for row, example in enumerate(examples):
            mine = tokens.rows == row
            self._labels.setdefault(example, tokens.labels[mine].cpu())
            self._positions.setdefault(example, tokens.positions[mine].cpu())

    def result(self, tasks: Mapping[int, str] | None = None) -> TokenStream:
        """Give the stream, see `Collector`; a pass over it raises InputError for logits with NaN or +∞."""
        numbers = [torch.full_like(labels, example) for example, labels in self._labels.items()]
        return TokenStream(
            self._chunks,
            example=_joined(numbers),
            position=_joined(list(self._positions.values())),
            vocabulary=self._vocabulary,
            device=self._peft_model.device,
            tasks=tasks,
        )

    def _chunks(self) -> Iterator[LogitChunk]:
        heads, device = (tuned_head(self._peft_model), base_head(self._peft_model)), self._peft_model.device
        for examples in self._groups():
            states = [kept.get(examples).split(self._chunk_size) for kept in (self._tuned, self._base)]
            labels = torch.cat([self._labels[example] for example in examples]).split(self._chunk_size)
            for tuned, base, label in zip(*states, labels, strict=True):
                with torch.no_grad(), self._around():
                    logits = [head(part.to(device)) for head, part in zip(heads, (tuned, base), strict=True)]
                check_logits("the tuned model's logits", logits[0])
                check_logits("the base model's logits", logits[1])
                yield LogitChunk(logits[0], logits[1], label.to(device))

    def _groups(self) -> Iterator[list[int]]:
        """Examples in their order, a chunk's worth of tokens or a little more at a time."""
        group, size = [], 0
        for example, labels in self._labels.items():
            if len(labels):
                group.append(example)
                size += len(labels)
            if size >= self._chunk_size:
                yield group
                group, size = [], 0
        if group:
            yield group


def add_tokens(
    into: TokenCollector,
    chunk: LogitChunk,
    tokens: CompletionTokens,
    index: Tensor,
    *,
    among: Tensor | None = None,
) -> None:
    """Add a chunk of a batch's tokens.

    Args:
        into: receives the tokens.
        chunk: both models' logits of n tokens.
        tokens: their places in the batch.
        index: number of each row's example, int64 [B].
        among: the rows whose tokens are wanted, bool [B]; None for all.
    """
    if among is not None:
        keep = among[tokens.rows]
        tokens = CompletionTokens(*(field[keep] for field in tokens))
        chunk = LogitChunk(*(field[keep] for field in chunk))
    into.update(*chunk, index[tokens.rows], tokens.positions)


def ensure_base_states(
    peft_model: PeftModel, batch: Batch, tokens: CompletionTokens, snapshot: ReferenceSnapshot
) -> None:
    """Run the base on this batch, unless the snapshot has its hidden states."""
    examples = batch["index"].tolist()
    if not snapshot.has(examples):
        hidden = base_hidden_states(peft_model, batch["input_ids"], batch["attention_mask"])
        snapshot.put(examples, tokens.rows, completion_states(hidden, tokens))


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)
