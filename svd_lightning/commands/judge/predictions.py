"""Read what predict has written."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from svd_lightning.commands.judge.protocol import Answer
from svd_lightning.data import SourceRow, read_rows
from svd_lightning.errors import InputError
from svd_lightning.metrics import option_label
from svd_lightning.runs import existing_run

PREDICTIONS = "predictions.jsonl"
_COLUMNS = {"base": "base", "tuned": "tuned", "steered": "completion"}
"""The column with each system's answers, in the order of the tables."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One prompt with the answers of every system."""

    id: str
    """The example's id."""
    question: str
    """The question as people read it; the prompt if the record has none."""
    correct: tuple[str, ...]
    """Right answers, the reference among them; empty where only prompts were given."""
    incorrect: tuple[str, ...]
    """Wrong answers, if the dataset has them."""
    task: str | None
    """The task that it belongs to, if the dataset mixes several."""
    texts: Mapping[str, tuple[str, ...]]
    """The answers by system: base, tuned, steered. Several if several were sampled."""

    @property
    def label(self) -> str | None:
        """The right option, if the reference names one ("the correct answer is answer2")."""
        return option_label(self.correct[0]) if self.correct else None

    def answer(self, text: str) -> Answer:
        """Return what a judge reads about one of the texts."""
        return Answer(question=self.question, text=text, correct=self.correct, incorrect=self.incorrect)


def predictions_path(place: str) -> Path:
    """Return the predictions file of a run folder, or the file itself.

    Raises:
        InputError: if there is none.
    """
    path = Path(place).expanduser()
    path = existing_run(path) / PREDICTIONS if path.is_dir() else path
    if not path.is_file():
        raise InputError(
            f"{place}: expected a run folder with {PREDICTIONS}, or such a file, and there is none; run "
            "`svd-lightning predict` first"
        )
    return path


def read_predictions(path: Path) -> list[Row]:
    """Read the rows of a predictions file, all with the same systems.

    Raises:
        InputError: for records that predict did not write, naming the line.
    """
    rows = [_row(record) for record in read_rows(path)]
    expected = dict.fromkeys(rows[0].texts, len(rows[0].texts["steered"]))
    for row in rows:
        if {name: len(texts) for name, texts in row.texts.items()} != expected:
            raise InputError(
                f"{path}: expected the same completions in every record, as many of base and tuned as steered; "
                f"record {row.id!r} differs"
            )
    return rows


def _row(record: SourceRow) -> Row:
    prompt, reference = record.text("prompt"), record.text("reference").strip()
    correct = _texts(record, "correct") if "correct" in record.values else ()
    return Row(
        id=str(record.value("id")),
        question=record.text_if_any("question") or prompt,
        correct=tuple(dict.fromkeys(text for text in (reference, *correct) if text)),
        incorrect=_texts(record, "incorrect") if "incorrect" in record.values else (),
        task=record.text_if_any("task"),
        texts={
            name: _texts(record, column, several=False)
            for name, column in _COLUMNS.items()
            if column in record.values or name == "steered"
        },
    )


def _texts(record: SourceRow, column: str, *, several: bool = True) -> tuple[str, ...]:
    """Read a list of texts; with `several=False` a single text too."""
    value = record.value(column)
    if isinstance(value, str) and not several:
        return (value,)
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise InputError(f"{record.where}: expected a list of texts in {column!r}, got {value!r:.80}")
    return tuple(text.strip() if several else text for text in value)
