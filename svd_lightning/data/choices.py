"""Datasets of questions with choices: of any source, and of one question in each row of a file or dataset."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from svd_lightning.data.datamodule import CompletionDataModule
from svd_lightning.data.examples import ChoiceQuestion, Example
from svd_lightning.data.source_rows import RowData, SourceRow, is_file_path
from svd_lightning.errors import InputError


@dataclass(kw_only=True, eq=False, repr=False)
class ChoiceDataModule(CompletionDataModule, ABC):
    """Questions with choices, split and trained on as prompts with their best choice.

    A dataset is a subclass with `load_questions`. Once the data are set up, `questions(split)` gives the questions
    of a split with all choices.
    """

    @abstractmethod
    def load_questions(self) -> list[ChoiceQuestion]:
        """Return the questions to train on; splits that do not come ready are cut from them."""

    def load_given_question_splits(self) -> dict[str, list[ChoiceQuestion]]:
        """Return the splits that come ready, by name: calibration, validation, test, predict."""
        return {}

    def load(self) -> list[Example]:
        """Return each question with its best choice."""
        return [question.as_example() for question in self.load_questions()]

    def load_given_splits(self) -> dict[str, list[Example]]:
        """Return the splits that come ready, each question with its best choice."""
        given = self.load_given_question_splits()
        return {split: [question.as_example() for question in questions] for split, questions in given.items()}


@dataclass(kw_only=True, eq=False, repr=False)
class RecordedChoices(RowData, ChoiceDataModule, ABC):
    """Questions in the rows of files, dataset folders or hub datasets. A dataset is a subclass with `question`.

    A split with a path of its own is taken whole, and so are the splits that a folder or hub dataset has (unless
    their size is null); the others are cut from the training data.
    """

    READY: ClassVar[Mapping[str, str]] = {}
    """The labelled splits that the dataset on the hub has: our name, and the hub's."""

    @abstractmethod
    def question(self, row: SourceRow, name: str) -> ChoiceQuestion:
        """Return the question in a row; `name` is its id."""

    def load_questions(self) -> list[ChoiceQuestion]:
        """Return the questions of `path`."""
        return [self._question(row, name) for row, name in self.named_rows(self.path, split="train")]

    def load_given_question_splits(self) -> dict[str, list[ChoiceQuestion]]:
        """Return the splits that have a path of their own, or that the dataset has."""
        ready = () if is_file_path(self.path) else self.READY
        kept = [name for name in ready if getattr(self, name) is not None]
        names_there = {"calibration": "train", "validation": "validation", "test": "test", **self.READY}
        return {
            name: [self._question(*row) for row in self.named_rows(source, split=names_there[name])]
            for name, source in {**dict.fromkeys(kept, self.path), **self.split_paths()}.items()
        }

    def _question(self, row: SourceRow, name: str) -> ChoiceQuestion:
        try:
            return self.question(row, name)
        except InputError as error:
            if str(error).startswith(row.where):
                raise
            raise InputError(f"{row.where}: {error}") from error


def index_of(row: SourceRow, column: str, labels: Sequence[object]) -> int:
    """Return which of the labels is in a column; the text "1" and the number 1 are the same label."""
    value = row.value(column)
    indices = {str(label).lower(): index for index, label in enumerate(labels)}
    if (label := str(value).strip().lower()) not in indices:
        raise InputError(
            f"{row.where}: expected one of {', '.join(map(repr, labels))} in {column!r}, got {value!r:.80}; "
            "splits without labels cannot be used"
        )
    return indices[label]
