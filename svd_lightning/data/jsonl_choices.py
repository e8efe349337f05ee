"""Your own questions with choices."""

import json
from dataclasses import dataclass
from typing import Any

from svd_lightning.data.examples import ChoiceQuestion
from svd_lightning.data.jsonl import read_messages
from svd_lightning.data.recorded import RecordedChoices
from svd_lightning.data.records import Record
from svd_lightning.errors import InputError


@dataclass(kw_only=True, eq=False, repr=False)
class JSONLChoices(RecordedChoices):
    """JSONL, JSON, CSV, TSV or Parquet files, dataset folders and hub datasets of questions with choices.

    A row holds `prompt` (or `messages`, a list of {role, content} before the answer), `choices` (a list of
    completions, each as it follows the prompt, with its leading space), `correct` (indices of the right ones,
    from 0) and, if you like, `best` (the one to train on; otherwise the first right one). In tables lists are
    written as JSON.
    """

    prompt_column: str = "prompt"
    """The column with the prompts."""
    messages_column: str = "messages"
    """The column with conversations; where a row has it, it replaces the prompt."""
    choices_column: str = "choices"
    """The column with the choices."""
    correct_column: str = "correct"
    """The column with the indices of the right choices."""
    best_column: str = "best"
    """The column with the index of the choice to train on; it may be missing."""
    task_column: str | None = "task"
    """The column with the task's name, where a row has one; null for none."""

    def question(self, record: Record, name: str) -> ChoiceQuestion:
        """The question in a row."""
        choices = _parsed(record, self.choices_column, option="choices_column")
        if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
            raise InputError(
                f"{record.where}: expected a list of texts in {self.choices_column!r}, got {choices!r:.80}"
            )
        correct = _indices(record, self.correct_column, option="correct_column")
        messages = None
        if record.values.get(self.messages_column) is not None:
            messages = read_messages(record, self.messages_column)
            if messages[-1].role == "assistant":
                raise InputError(f"{record.where}: expected messages before the answer, got the assistant's last")
            prompt = "\n".join(message.content for message in messages)
        else:
            prompt = record.text(self.prompt_column, option="prompt_column")
        task = record.text_if_any(self.task_column, option="task_column")
        best = self._best(record, correct)
        return ChoiceQuestion(
            name, prompt, tuple(choices), correct=correct, best=best, task=task, messages=messages
        )

    def _best(self, record: Record, correct: tuple[int, ...]) -> int:
        if record.values.get(self.best_column) in (None, ""):
            return correct[0] if correct else 0  # the question itself refuses to have no right choice
        best = _indices(record, self.best_column, option="best_column")
        if len(best) != 1:
            raise InputError(f"{record.where}: expected one index in {self.best_column!r}, got {list(best)}")
        return best[0]


def _parsed(record: Record, column: str, *, option: str) -> Any:
    """What is in a column; text is read as JSON."""
    value = record.value(column, option=option)
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise InputError(f"{record.where}: expected JSON in {column!r}, got {value!r:.80}: {error.msg}") from error


def _indices(record: Record, column: str, *, option: str) -> tuple[int, ...]:
    """One index or a list of them."""
    value = _parsed(record, column, option=option)
    indices = value if isinstance(value, list) else [value]
    if any(isinstance(index, bool) or not isinstance(index, int) for index in indices):
        raise InputError(f"{record.where}: expected whole numbers from 0 in {column!r}, got {value!r:.80}")
    return tuple(indices)
