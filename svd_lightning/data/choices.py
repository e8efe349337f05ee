"""Datasets of questions with choices: of any source, and of one question in each row of a file or dataset."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from svd_lightning.data.datamodule import CompletionDataModule
from svd_lightning.data.examples import ChoiceQuestion, Example
from svd_lightning.data.source_rows import SourceRow, is_file_path, read_rows, source_name
from svd_lightning.errors import InputError


@dataclass(kw_only=True, eq=False, repr=False)
class ChoiceDataModule(CompletionDataModule, ABC):
    """Questions with choices, split and trained on as prompts with their best choice.

    A dataset is a subclass with `load_questions`. Once the data are set up, `questions(split)` gives the questions
    of a split with all choices.
    """

    @abstractmethod
    def load_questions(self) -> list[ChoiceQuestion]:
        """The questions to train on; splits that do not come ready are cut from them."""

    def load_given_question_splits(self) -> dict[str, list[ChoiceQuestion]]:
        """The splits that come ready, by name: calibration, validation, test, predict."""
        return {}

    def load(self) -> list[Example]:
        """Each question with its best choice."""
        return [question.as_example() for question in self.load_questions()]

    def load_given_splits(self) -> dict[str, list[Example]]:
        """The same for the splits that come ready."""
        given = self.load_given_question_splits()
        return {split: [question.as_example() for question in questions] for split, questions in given.items()}


@dataclass(kw_only=True, eq=False, repr=False)
class RecordedChoices(ChoiceDataModule, ABC):
    """Questions in the rows of files, dataset folders or hub datasets. A dataset is a subclass with `question`.

    A split with a path of its own is taken whole, and so are the splits that a folder or hub dataset has (unless
    their size is null); the others are cut from the training data.
    """

    READY: ClassVar[Mapping[str, str]] = {}
    """The labelled splits that the dataset on the hub has: our name, and the hub's."""

    path: str | Path = field(kw_only=False)
    """Training data: a .jsonl, .json, .csv, .tsv or .parquet file, a dataset folder, or a hub name."""
    calibration_path: str | Path | None = None
    """Calibration data of its own, instead of a part of the training data."""
    validation_path: str | Path | None = None
    """Validation data of its own."""
    test_path: str | Path | None = None
    """Test data of its own."""
    subset: str | None = None
    """Configuration of a folder or hub dataset."""
    revision: str | None = None
    """Branch, tag or commit of a hub dataset."""
    id_column: str = "id"
    """The column with the ids; rows without one are named after file and line."""

    @abstractmethod
    def question(self, row: SourceRow, name: str) -> ChoiceQuestion:
        """The question in a row; `name` is its id."""

    def load_questions(self) -> list[ChoiceQuestion]:
        """The questions of `path`."""
        return self._read(self.path, split="train")

    def load_given_question_splits(self) -> dict[str, list[ChoiceQuestion]]:
        """The splits that have a path of their own, or that the dataset has."""
        own = {"calibration": self.calibration_path, "validation": self.validation_path, "test": self.test_path}
        theirs = {"calibration": "train", "validation": "validation", "test": "test", **self.READY}
        brought = () if is_file_path(self.path) else self.READY
        wanted = [name for name in brought if getattr(self, name) is not None]
        sources = dict.fromkeys(wanted, self.path) | {name: path for name, path in own.items() if path is not None}
        return {name: self._read(source, split=theirs[name]) for name, source in sources.items()}

    def _read(self, source: str | Path, *, split: str) -> list[ChoiceQuestion]:
        rows = read_rows(source, subset=self.subset, split=split, revision=self.revision)
        paths = (self.path, self.calibration_path, self.validation_path, self.test_path)
        stem = source_name(source, split=split, among=paths)
        return [self._question(row, stem) for row in rows]

    def _question(self, row: SourceRow, stem: str) -> ChoiceQuestion:
        given_id = row.values.get(self.id_column)
        name = f"{stem}-{row.number}" if given_id is None else str(given_id)
        try:
            return self.question(row, name)
        except InputError as error:
            if str(error).startswith(row.where):
                raise
            raise InputError(f"{row.where}: {error}") from error


def index_of(row: SourceRow, column: str, labels: Mapping[object, int]) -> int:
    """The index that the label in a column stands for; the text "1" and the number 1 are the same label."""
    value = row.value(column)
    known = {str(label).lower(): index for label, index in labels.items()}
    if (label := str(value).strip().lower()) not in known:
        raise InputError(
            f"{row.where}: expected one of {', '.join(map(repr, labels))} in {column!r}, got {value!r:.80}; "
            "splits without labels cannot be used"
        )
    return known[label]
