"""Questions with choices, one per row of a file or a dataset."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from svd_lightning.data.choices import ChoiceDataModule
from svd_lightning.data.examples import ChoiceQuestion
from svd_lightning.data.records import Record, is_file_path, read_records, source_name
from svd_lightning.errors import InputError


@dataclass(kw_only=True, eq=False, repr=False)
class RecordedChoices(ChoiceDataModule, ABC):
    """Questions in the rows of files, dataset folders or hub datasets. A dataset is a subclass with `question`.

    A split with a path of its own is taken whole, and so are those that a folder or hub dataset brings (unless
    their size is null); the others are cut from the training data.
    """

    READY: ClassVar[Mapping[str, str]] = {}
    """The labelled splits that the dataset on the hub brings: our name, and theirs."""

    path: str | Path = field(kw_only=False)
    """Training data: a .jsonl, .json, .csv, .tsv or .parquet file, a dataset folder, or a hub name."""
    calibration_path: str | Path | None = None
    """Calibration data of its own, instead of a share of the training data."""
    validation_path: str | Path | None = None
    """Validation data of its own."""
    test_path: str | Path | None = None
    """Test data of its own."""
    subset: str | None = None
    """Configuration of a folder or hub dataset."""
    revision: str | None = None
    """Branch, tag or commit of a hub dataset."""
    id_column: str = "id"
    """The column with the ids; rows without are called after file and line."""

    @abstractmethod
    def question(self, record: Record, name: str) -> ChoiceQuestion:
        """The question in a row; `name` is its id."""

    def load_questions(self) -> list[ChoiceQuestion]:
        """The questions of `path`."""
        return self._read(self.path, split="train")

    def load_given_question_splits(self) -> dict[str, list[ChoiceQuestion]]:
        """The splits that have a path of their own, or come with the dataset."""
        own = {"calibration": self.calibration_path, "validation": self.validation_path, "test": self.test_path}
        theirs = {"calibration": "train", "validation": "validation", "test": "test", **self.READY}
        brought = () if is_file_path(self.path) else self.READY
        wanted = [name for name in brought if getattr(self, name) is not None]
        sources = dict.fromkeys(wanted, self.path) | {name: path for name, path in own.items() if path is not None}
        return {name: self._read(source, split=theirs[name]) for name, source in sources.items()}

    def _read(self, source: str | Path, *, split: str) -> list[ChoiceQuestion]:
        records = read_records(source, subset=self.subset, split=split, revision=self.revision)
        paths = (self.path, self.calibration_path, self.validation_path, self.test_path)
        stem = source_name(source, split=split, among=paths)
        return [self._question(record, stem) for record in records]

    def _question(self, record: Record, stem: str) -> ChoiceQuestion:
        given_id = record.values.get(self.id_column)
        name = f"{stem}-{record.number}" if given_id is None else str(given_id)
        try:
            return self.question(record, name)
        except InputError as error:
            if str(error).startswith(record.where):
                raise
            raise InputError(f"{record.where}: {error}") from error


def index_of(record: Record, column: str, labels: Mapping[object, int]) -> int:
    """The index that the label in a column stands for; a table's text and a dataset's number are the same."""
    value = record.value(column)
    known = {str(label).lower(): index for label, index in labels.items()}
    if (label := str(value).strip().lower()) not in known:
        raise InputError(
            f"{record.where}: expected one of {', '.join(map(repr, labels))} in {column!r}, got {value!r:.80}; "
            "splits without labels cannot be used"
        )
    return known[label]
