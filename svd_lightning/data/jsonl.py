"""Your own data: prompts and completions, or conversations, in files or on the hub."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from svd_lightning.data.datamodule import CompletionDataModule
from svd_lightning.data.examples import Example, Message
from svd_lightning.data.records import Record, read_records, source_name
from svd_lightning.errors import InputError


@dataclass(kw_only=True, eq=False, repr=False)
class JSONLData(CompletionDataModule):
    """JSONL, JSON, CSV, TSV or Parquet files, dataset folders and hub datasets of prompts and completions.

    A row holds `prompt` and `completion`, or `messages`: a list of {role, content}, the assistant's last. A
    split with a path of its own is taken whole; the others are cut from `path`.
    """

    path: str | Path = field(kw_only=False)
    """Training data: a .jsonl, .json, .csv, .tsv or .parquet file, a dataset folder, or a hub name."""
    calibration_path: str | Path | None = None
    """Calibration data of its own, instead of a share of the training data."""
    validation_path: str | Path | None = None
    """Validation data of its own."""
    test_path: str | Path | None = None
    """Test data of its own."""
    predict_path: str | Path | None = None
    """Prompts to complete (completions may be missing); otherwise those of the test split."""
    prompt_column: str = "prompt"
    """The column with the prompts."""
    completion_column: str = "completion"
    """The column with the completions."""
    messages_column: str = "messages"
    """The column with conversations; where a row has it, it replaces prompt and completion."""
    id_column: str = "id"
    """The column with the ids; rows without are called after file and line."""
    task_column: str | None = "task"
    """The column with the task's name, where a row has one: each task is steered as far as suits it."""
    subset: str | None = None
    """Configuration of a folder or hub dataset."""
    split: str = "train"
    """The split of a folder or hub dataset to train on (the other paths read validation and test)."""

    def load(self) -> list[Example]:
        """The examples of `path`."""
        return self._read(self.path, split=self.split)

    def load_given_splits(self) -> dict[str, list[Example]]:
        """The splits that have a path of their own."""
        given = {}
        if self.calibration_path is not None:
            given["calibration"] = self._read(self.calibration_path, split=self.split)
        if self.validation_path is not None:
            given["validation"] = self._read(self.validation_path, split="validation")
        if self.test_path is not None:
            given["test"] = self._read(self.test_path, split="test")
        if self.predict_path is not None:
            given["predict"] = self._read(self.predict_path, split="test", prompts_only=True)
        return given

    def _read(self, source: str | Path, *, split: str, prompts_only: bool = False) -> list[Example]:
        records = read_records(source, subset=self.subset, split=split)
        paths = (self.path, self.calibration_path, self.validation_path, self.test_path, self.predict_path)
        stem = source_name(source, split=split, among=paths)
        return [self._example(record, stem, prompts_only=prompts_only) for record in records]

    def _example(self, record: Record, stem: str, *, prompts_only: bool) -> Example:
        given_id = record.values.get(self.id_column)
        name = f"{stem}-{record.number}" if given_id is None else str(given_id)
        if record.values.get(self.messages_column) is not None:
            messages = read_messages(record, self.messages_column)
            answered = messages[-1].role == "assistant"
            completion = messages[-1].content if answered else ""
            before = messages[:-1] if answered else messages
            prompt = "\n".join(message.content for message in before)
        else:
            before = None
            prompt = record.text(self.prompt_column, option="prompt_column")
            wanted = not prompts_only or record.values.get(self.completion_column) is not None
            completion = record.text(self.completion_column, option="completion_column") if wanted else ""
        if not completion and not prompts_only:
            raise InputError(f"{record.where}: expected a completion, got an empty one; write it, or drop the row")
        task = record.text_if_any(self.task_column, option="task_column")
        return Example(name, prompt, completion, messages=before, task=task)


def read_messages(record: Record, column: str) -> tuple[Message, ...]:
    """The turns of a conversation in a column."""
    turns: Any = record.value(column)
    if not isinstance(turns, list) or not turns or not all(map(_is_turn, turns)):
        raise InputError(
            f"{record.where}: expected in {column!r} a list of {{role: text, content: text}}, got {turns!r:.80}"
        )
    messages = tuple(Message(role=turn["role"], content=turn["content"]) for turn in turns)
    if len(messages) == 1 and messages[0].role == "assistant":
        raise InputError(f"{record.where}: expected a message before the assistant's, got only that one")
    return messages


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
