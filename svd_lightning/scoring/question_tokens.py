"""From batches of questions to the tokens of right answers, and those by which the options differ."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from svd_lightning.calibration import LabelSplit
from svd_lightning.data import Batch
from svd_lightning.data.collate import IGNORED
from svd_lightning.data.questions import EncodedQuestion
from svd_lightning.metrics import Options
from svd_lightning.objective import (
    CalibrationTokens,
    Choices,
    LabelCollector,
    LabelTokens,
    QuestionTokens,
    TokenStream,
    TokenTable,
)

Choose = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(example, position) of tokens, int64 [N] → which to keep, bool [N], and other numbers of examples, int64 [N]."""


def needed_labels(batch: Batch) -> Tensor:
    """Return the labels of the best choices, and of the others those that tell them apart, without ends; [R, T].

    The tokens with which the choices of a question begin alike are the best one's too.
    """
    labels: Tensor = batch["labels"]
    columns = torch.arange(labels.shape[1], device=labels.device)
    own = (columns >= batch["differ"].unsqueeze(-1)) & (columns < batch["end"].unsqueeze(-1))
    return labels.masked_fill(~(own | batch["best"].unsqueeze(-1)), IGNORED)


class LabelRows(Protocol):
    """Collects the tokens of rows as corrections see them, and gives a part of them."""

    def add(self, batch: Batch) -> None:
        """Add a batch's completion tokens."""
        ...

    @property
    def labels(self) -> LabelCollector | None:
        """What collects for corrections; None if nothing does."""
        ...

    def label_part(self, choose: Choose) -> LabelTokens:
        """Return the chosen tokens as corrections see them."""
        ...


class RowCollector(LabelRows, Protocol):
    """Collects the tokens of rows for steering too."""

    def part(self, choose: Choose, tasks: Mapping[int, str] | None = None) -> TokenTable | TokenStream:
        """Return the chosen tokens, under the chosen numbers of examples."""
        ...


class QuestionLabels:
    """Collects right answers, and the tokens by which the options differ, as corrections see them.

    Among the rows that are collected an option has a number of its own, question × width + option.

    Args:
        rows: collects the rows' tokens.
        questions: those of the split, of all processes.
    """

    def __init__(self, rows: LabelRows, questions: Sequence[EncodedQuestion]) -> None:
        self._rows, self._width = rows, max(len(question.choices) for question in questions)
        self._best = torch.tensor([one.index * self._width + one.best for one in questions])
        asked = sorted((one for one in questions if len(one.choices) > 1), key=lambda one: one.index)
        self._asked, spans = asked, []
        for one in asked:
            spans += [(one.differ, len(choice) - 1) for choice in one.choices]
        self._spans = torch.tensor(spans, dtype=torch.int64).view(-1, 2)
        told_apart = bool((self._spans[:, 0] < self._spans[:, 1]).any())
        self._choices = self._as_choices() if told_apart else None

    def _as_choices(self) -> Choices:
        where = [
            (place, one, number) for place, one in enumerate(self._asked) for number in range(len(one.choices))
        ]
        return Choices(
            torch.tensor([one.index for one in self._asked]),
            torch.tensor([one.index * self._width + number for _, one, number in where]),
            Options(
                torch.tensor([place for place, *_ in where]),
                torch.tensor([number in one.correct for _, one, number in where]),
                torch.tensor([number == one.best for _, one, number in where]),
            ),
        )

    def add(self, batch: Batch) -> None:
        """Add the tokens of a `QuestionBatch`."""
        numbers = batch["index"] * self._width + batch["option"]
        self._rows.add({**batch, "index": numbers, "labels": needed_labels(batch)})

    def label_split(self) -> LabelSplit | None:
        """Return both as corrections see them; None if they were not asked for. Call it on every rank."""
        if self._rows.labels is None:
            return None
        answers = self._rows.label_part(self._right)
        options = None if self._choices is None else self._rows.label_part(self._own)
        return LabelSplit(answers, options, self._choices)

    def _right(self, example: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Choose the tokens of the right answers, under their questions' numbers."""
        return torch.isin(example, self._best), example // self._width

    def _own(self, example: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Choose each option's own tokens."""
        assert self._choices is not None
        row = self._choices.row
        place = torch.searchsorted(row, example).clamp_max(len(row) - 1)
        first, end = self._spans[place].unbind(dim=-1)
        return (row[place] == example) & (position >= first) & (position < end), example


class QuestionCollection(QuestionLabels):
    """Collects the tokens of right answers, and of every option those by which the options differ.

    Args:
        rows: collects the rows' tokens.
        questions: those of the split, of all processes.
    """

    def __init__(self, rows: RowCollector, questions: Sequence[EncodedQuestion]) -> None:
        super().__init__(rows, questions)
        self._tokens = rows

    def result(self, tasks: Mapping[int, str] | None = None) -> CalibrationTokens:
        """Return the tokens of the right answers of all processes. Call it on every rank."""
        return self._tokens.part(self._right, tasks)

    def questions(self) -> QuestionTokens | None:
        """Return the options' own tokens of all processes; None if none differ. Call it on every rank."""
        return None if self._choices is None else QuestionTokens(self._tokens.part(self._own), self._choices)
