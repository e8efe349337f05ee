"""Batches in, calibration tokens out: one collector for steering with a mask, one for steering without."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Protocol

import torch
from peft import PeftModel
from torch import Tensor

from svd_lightning.calibration import LabelSplit
from svd_lightning.data import Batch
from svd_lightning.data.questions import EncodedQuestion
from svd_lightning.errors import InputError
from svd_lightning.models.hidden import base_head, base_hidden_states, tuned_head, tuned_hidden_states
from svd_lightning.objective import (
    CalibrationTokens,
    LabelCollector,
    LabelTokens,
    QuestionTokens,
    ReferenceSnapshot,
    TokenCollector,
    TokenStream,
    TokenTable,
)
from svd_lightning.scoring.question_tokens import Choose, QuestionCollection
from svd_lightning.scoring.tokens import (
    CompletionTokens,
    add_labels,
    add_tokens,
    chunk_length,
    completion_states,
    completion_tokens,
    head_logits,
    logit_chunks,
    placed,
    shared_prompts,
)
from svd_lightning.steering import ConfidentSet, Steering, with_built_in


class Collector(Protocol):
    """Takes batches, gives calibration tokens: of completions, or of the right answers to questions."""

    def add(self, batch: Batch) -> None:
        """Add a batch's completion tokens; an example that has been added before changes nothing.

        Args:
            batch: input_ids, attention_mask and labels [B, T], and index int64 [B], the number of each example;
                or a `QuestionBatch`, if the collector was made for questions.

        Raises:
            InputError: for logits that are not finite, or an adapter that cannot be switched off.
        """
        ...

    def result(self, tasks: Mapping[int, str] | None = None) -> CalibrationTokens:
        """Return the tokens of all processes, each once. Call it on every rank.

        Args:
            tasks: the task of each example that has one, over all processes.

        Raises:
            InputError: if there is no token.
        """
        ...

    def questions(self) -> QuestionTokens | None:
        """Return the options' own tokens of all processes; None without questions. Call it on every rank."""
        ...

    def label_split(self) -> LabelSplit | None:
        """Return the tokens as corrections see them; None if they were not asked for. Call it on every rank."""
        ...


def collector(
    peft_model: PeftModel,
    steering: Steering,
    snapshot: ReferenceSnapshot | None = None,
    *,
    alphas: Sequence[float] = (),
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
    questions: Sequence[EncodedQuestion] = (),
    corrected: Tensor | None = None,
) -> Collector:
    """Make the collector for a steering: of a table if it has a mask, of a stream if it has none.

    Args:
        peft_model: in evaluation mode, now and as long as the tokens are used.
        steering: rules, features and mask; its strengths are ignored.
        snapshot: keeps the base's hidden states, so that the base runs once per example; None keeps none.
        alphas: further masks that the table must cover.
        around: makes a context for every later pass of a stream, such as a Trainer's precision.
        questions: those of the split, of all processes, where its batches are of questions.
        corrected: the tokens that corrections may change, int64 [k]; None collects nothing for them.
    """
    labels = None
    if corrected is not None:
        width = peft_model.get_base_model().get_output_embeddings().in_features
        labels = LabelCollector(corrected, width).to(peft_model.device)
    rows: _TableCollector | _StreamCollector
    if steering.alpha is None:
        rows = _StreamCollector(peft_model, snapshot or ReferenceSnapshot(), around, labels)
    else:
        into = token_collector(steering, alphas=alphas).to(peft_model.device)
        rows = _TableCollector(peft_model, into, snapshot, labels)
    return QuestionCollection(rows, questions) if questions else rows


def token_collector(steering: Steering, *, alphas: Sequence[float] = ()) -> TokenCollector:
    """Make the collector of a table from logits, for the built-in and the steering's rules, at the smallest α.

    Raises:
        InputError: if the steering has no mask.
    """
    if steering.alpha is None:
        raise InputError(
            "steering.alpha: the calibration table needs a mask, got null; set alpha (the paper's is 0.1; 0.001 "
            "comes close to none), or give steering.strengths and skip the calibration"
        )
    rules = {type(rule): rule for rule in (*with_built_in(steering.rules), ConfidentSet())}
    alpha = min(steering.alpha, *alphas, 1.0)
    return TokenCollector(tuple(rules.values()), features=steering.features, alpha=alpha)


class LabelPart:
    """The part of a collector that collects for corrections, if it was asked to."""

    labels: LabelCollector | None

    def questions(self) -> None:
        return None

    def label_split(self) -> LabelSplit | None:
        return None if self.labels is None else LabelSplit(self.labels.compute())

    def label_part(self, choose: Choose) -> LabelTokens:
        """Return the chosen tokens, under the chosen numbers of examples."""
        assert self.labels is not None
        found = self.labels.compute()
        return found.part(*choose(found.example, found.position))


class _TableCollector(LabelPart):
    """Collects a table: the few numbers per token that a mask leaves."""

    def __init__(
        self,
        peft_model: PeftModel,
        into: TokenCollector,
        snapshot: ReferenceSnapshot | None,
        labels: LabelCollector | None,
    ) -> None:
        self._peft_model, self._into, self._snapshot, self.labels = peft_model, into, snapshot, labels

    def add(self, batch: Batch) -> None:
        tokens, states = completion_tokens(batch), None
        if self._snapshot is not None:
            _ensure_base_states(self._peft_model, batch, tokens, self._snapshot)
            states = self._snapshot.get(batch["index"].tolist())
        chunks = logit_chunks(self._peft_model, batch, base_states=states)
        for places, chunk in placed(chunks, tokens):
            add_tokens(self._into, chunk, places, batch["index"])
            if self.labels is not None:
                add_labels(self.labels, chunk, places, batch["index"])

    def result(self, tasks: Mapping[int, str] | None = None) -> CalibrationTokens:
        self._into.tasks = dict(tasks or {})
        return self._into.compute()

    def part(self, choose: Choose, tasks: Mapping[int, str] | None = None) -> TokenTable:
        """Return the chosen tokens, under the chosen numbers of examples."""
        table = self._into.compute()
        return table.part(*choose(table.example, table.position), tasks)


class _StreamCollector(LabelPart):
    """Collects a stream: both models' final hidden states [N, H], from which the logits are made again.

    The decoders run once per batch. After that a pass over the tokens costs the two heads only, a chunk of [n, V]
    logits at a time. The states lie in CPU memory, or beyond a size in files (`ReferenceSnapshot`).
    """

    def __init__(
        self,
        peft_model: PeftModel,
        snapshot: ReferenceSnapshot,
        around: Callable[[], AbstractContextManager[Any]],
        labels: LabelCollector | None,
    ) -> None:
        self._peft_model, self._around, self.labels = peft_model, around, labels
        self._base, self._tuned = snapshot, ReferenceSnapshot()
        self._vocabulary = peft_model.get_base_model().config.get_text_config().vocab_size
        self._chunk_size = chunk_length(peft_model)
        self._labels: dict[int, Tensor] = {}
        self._positions: dict[int, Tensor] = {}

    def add(self, batch: Batch) -> None:
        tokens, examples = completion_tokens(batch), batch["index"].tolist()
        _ensure_base_states(self._peft_model, batch, tokens, self._base)
        ids, mask = batch["input_ids"], batch["attention_mask"]
        hidden = tuned_hidden_states(self._peft_model, ids, mask, shared=shared_prompts(batch))
        states = completion_states(hidden, tokens)
        self._tuned.put(examples, tokens.rows, states)
        self._add_labels(states, tokens, batch["index"])
        for row, example in enumerate(examples):
            mine = tokens.rows == row
            self._labels.setdefault(example, tokens.labels[mine].cpu())
            self._positions.setdefault(example, tokens.positions[mine].cpu())

    def _add_labels(self, states: Tensor, tokens: CompletionTokens, index: Tensor) -> None:
        if self.labels is None:
            return
        head, example = tuned_head(self._peft_model), index[tokens.rows]
        fields = (states, tokens.labels, example, tokens.positions)
        for part in zip(*(field.split(self._chunk_size) for field in fields), strict=True):
            self.labels.update(head(part[0]), *part)

    def result(self, tasks: Mapping[int, str] | None = None) -> TokenStream:
        return self.part(lambda example, position: (torch.ones_like(example, dtype=torch.bool), example), tasks)

    def part(self, choose: Choose, tasks: Mapping[int, str] | None = None) -> TokenStream:
        """Return the chosen tokens, under the chosen numbers of examples."""
        counts = torch.tensor([len(labels) for labels in self._labels.values()], dtype=torch.int64)
        example = torch.tensor(list(self._labels), dtype=torch.int64).repeat_interleave(counts)
        position = torch.cat([torch.zeros(0, dtype=torch.int64), *self._positions.values()])
        keep, number = choose(example, position)
        return TokenStream(
            partial(self._chunks, keep),
            example=number[keep],
            position=position[keep],
            vocabulary=self._vocabulary,
            device=self._peft_model.device,
            tasks=tasks,
        )

    def _chunks(self, keep: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        heads, device = (tuned_head(self._peft_model), base_head(self._peft_model)), self._peft_model.device
        start = 0
        for examples in self._groups():
            labels = torch.cat([self._labels[example] for example in examples])
            mine = keep[start : (start := start + len(labels))]
            if not mine.any():
                continue
            states = [kept.get(examples)[mine].split(self._chunk_size) for kept in (self._tuned, self._base)]
            for tuned, base, label in zip(*states, labels[mine].split(self._chunk_size), strict=True):
                with torch.no_grad(), self._around():
                    chunk = head_logits(heads, tuned.to(device), base.to(device), label.to(device))
                yield chunk.tuned_logits, chunk.base_logits, chunk.labels

    def _groups(self) -> Iterator[list[int]]:
        """Yield the examples in order, those of a chunk's worth of tokens or a little more at a time."""
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


def _ensure_base_states(
    peft_model: PeftModel, batch: Batch, tokens: CompletionTokens, snapshot: ReferenceSnapshot
) -> None:
    """Run the base on this batch, unless the snapshot has its hidden states."""
    examples = batch["index"].tolist()
    if not snapshot.has(examples):
        ids, mask = batch["input_ids"], batch["attention_mask"]
        hidden = base_hidden_states(peft_model, ids, mask, shared=shared_prompts(batch))
        snapshot.put(examples, tokens.rows, completion_states(hidden, tokens))
