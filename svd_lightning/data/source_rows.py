"""Rows of a file, a folder or a hub dataset; each knows its place for error messages."""

import codecs
import csv
import io
import json
from abc import ABC
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from svd_lightning.data.datamodule import CompletionDataModule
from svd_lightning.errors import InputError, explained


@dataclass(frozen=True)
class SourceRow:
    """One row of a source, unchanged."""

    where: str
    """File and line, or dataset and row, for error messages."""
    number: int
    """The number of the line in a text file, of the row elsewhere; from 1."""
    values: Mapping[str, Any]
    """Columns by name."""

    def text(self, column: str, *, option: str | None = None) -> str:
        """Return the text in a column; `option` is the argument that names the column."""
        value = self.value(column, option=option)
        if not isinstance(value, str):
            raise InputError(f"{self.where}: expected text in {column!r}, got {value!r}; write it in quotes")
        return value

    def text_if_any(self, column: str | None) -> str | None:
        """Return the text in a column; None where the column is missing, empty or None."""
        return None if column is None or self.values.get(column) in (None, "") else self.text(column)

    def value(self, column: str, *, option: str | None = None) -> Any:
        """Return what is in a column, of any type."""
        if column not in self.values:
            columns = ", ".join(map(repr, self.values)) or "none"
            remedy = f"; name the one to use with `{option}`" if option else ""
            raise InputError(f"{self.where}: expected the column {column!r}, got {columns}{remedy}")
        return self.values[column]


def read_rows(
    source: str | Path, *, subset: str | None = None, split: str = "train", revision: str | None = None
) -> list[SourceRow]:
    """Read all rows of a `.jsonl`, `.json`, `.csv`, `.tsv` or `.parquet` file, a dataset folder, or a hub dataset.

    `subset` (the hub's configuration) and `split` matter for folders and hub datasets only, `revision` (a
    branch, tag or commit) for hub datasets only.

    Raises:
        InputError: for a missing, empty or unreadable source, naming the line where there is one.
    """
    path = Path(source).expanduser()
    if path.is_file():
        if (suffix := path.suffix.lower()) not in _READERS:
            raise InputError(
                f"{path}: expected a file of type {', '.join(_READERS)}, got {path.suffix or 'no suffix'!r}"
            )
        rows = list(_READERS[suffix](path))
    elif path.is_dir() or not _names_a_file(str(source)):
        name, revision = (str(path), None) if path.is_dir() else (str(source), revision)
        rows = _load(f"{name} ({split})", name, subset=subset, split=split, revision=revision)
    else:
        raise InputError(f"data: expected a file, a folder or a hub dataset, got {str(path)!r}: no such file")
    if not rows:
        raise InputError(f"{path}: expected at least one example, got an empty dataset")
    return rows


@dataclass(kw_only=True, eq=False, repr=False)
class RowData(CompletionDataModule, ABC):
    """Data in the rows of files, dataset folders or hub datasets; each split may have a path of its own."""

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

    def split_paths(self) -> dict[str, str | Path]:
        """Return the paths of the splits that have one of their own, by split."""
        paths = {name: getattr(self, f"{name}_path", None) for name in _SPLITS}
        return {name: path for name, path in paths.items() if path is not None}

    def named_rows(self, source: str | Path, *, split: str) -> list[tuple[SourceRow, str]]:
        """Return the rows of a source, each with its id."""
        rows = read_rows(source, subset=self.subset, split=split, revision=self.revision)
        stem = source_name(source, split=split, among=[self.path, *self.split_paths().values()])
        ids = [row.values.get(self.id_column) for row in rows]
        return [
            (row, f"{stem}-{row.number}" if each in (None, "") else str(each))
            for row, each in zip(rows, ids, strict=True)
        ]


def is_file_path(source: str | Path) -> bool:
    """Return whether a source is meant as a file, rather than as a dataset that has splits of its own."""
    path = Path(source).expanduser()
    return path.is_file() or (not path.is_dir() and _names_a_file(str(source)))


def source_name(source: str | Path, *, split: str, among: Iterable[str | Path]) -> str:
    """Return the name from which rows without ids get theirs: that of the file, or of dataset and split.

    It includes the folder if another file `among` the sources has the same name.
    """
    if not is_file_path(source):
        return f"{Path(source).name}-{split}"
    this = Path(source).expanduser().resolve()
    files = {Path(path).expanduser().resolve() for path in among}
    shared = any(file.stem == this.stem for file in files - {this})
    return f"{this.parent.name}/{this.name}" if shared else this.stem


def _names_a_file(source: str) -> bool:
    return source.startswith(("/", ".", "~")) or Path(source).suffix.lower() in _READERS or source.count("/") > 1


def _read_jsonl(path: Path) -> Iterable[SourceRow]:
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            yield SourceRow(where, number, _object(_parse(line, where), where))


def _read_json(path: Path) -> Iterable[SourceRow]:
    text = _read_text(path)
    if not text.strip():
        return
    rows = _parse(text, str(path))
    if not isinstance(rows, list):
        raise InputError(f"{path}: expected a list of objects, got {type(rows).__name__}; one per line is .jsonl")
    for number, row in enumerate(rows, start=1):
        where = f"{path}, row {number}"
        yield SourceRow(where, number, _object(row, where))


def _read_csv(path: Path) -> Iterable[SourceRow]:
    # Not through pandas (load_dataset), which reads the answers "None" and "NA" as missing, and "5" as a number.
    text = _read_text(path)
    # strict: a quotation mark that is never closed would make one field of all rows after it
    delimiter = _DELIMITERS[path.suffix.lower()]
    lines = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    if not text.strip():
        return
    try:
        if repeated := [name for name, count in Counter(lines.fieldnames).items() if count > 1]:
            raise InputError(f"{path}, line 1: expected columns of different names, got {repeated[0]!r} twice")
        for row in lines:
            where = f"{path}, line {lines.line_num}"
            if None in row or None in row.values():
                raise InputError(f"{where}: expected {len(lines.fieldnames or ())} fields, got another number")
            yield SourceRow(where, lines.line_num, row)
    except csv.Error as error:
        raise InputError(
            f"{path}, after line {lines.line_num}: not readable as CSV: {error}; close each quotation mark, and "
            "write longer texts in a .jsonl file"
        ) from error


def _read_parquet(path: Path) -> Iterable[SourceRow]:
    return _load(str(path), "parquet", data_files=str(path))


def _load(
    label: str,
    name: str,
    *,
    subset: str | None = None,
    split: str = "train",
    revision: str | None = None,
    data_files: str | None = None,
) -> list[SourceRow]:
    from datasets import load_dataset  # takes a second, for pandas and pyarrow
    from datasets.exceptions import DatasetsError

    unreadable = (DatasetsError, OSError, RuntimeError, ValueError)  # RuntimeError: a dataset that is a script
    expected = f"data: cannot load {label}; expected a file, a folder or a hub dataset"
    with explained(unreadable, lambda reason: f"{expected}: {reason}"):
        rows = load_dataset(name, subset, split=split, revision=revision, data_files=data_files)
    return [SourceRow(f"{label}, row {number}", number, row) for number, row in enumerate(rows, start=1)]


def _read_text(path: Path) -> str:
    with explained((OSError,), lambda reason: f"{path}: expected a readable file: {reason}"):
        content = path.read_bytes()
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}, line {line}: expected text in UTF-8, got the byte 0x{content[error.start]:02x}, which is of "
            "another encoding; save the file as UTF-8"
        ) from error


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # RecursionError: brackets in brackets without end
        reason = getattr(error, "msg", str(error))
        raise InputError(f"{where}: expected JSON, got {text.strip()[:40]!r}: {reason}") from error


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected a JSON object with the columns as keys, got {type(value).__name__}")
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: expected text, got half of a character, {error.object[error.start]!r}, which no encoding "
            "has; write the whole character, or drop it"
        ) from error
    return value


_READERS: dict[str, Callable[[Path], Iterable[SourceRow]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}
_SPLITS = ("calibration", "validation", "test", "predict")
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, with whose mark it begins
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
