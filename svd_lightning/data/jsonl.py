"""Your own data, in files or on the hub: prompts and completions, conversations, questions with choices."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from svd_lightning.data.choices import RecordedChoices
from svd_lightning.data.conversations import (
    alpaca_prompt,
    answer_text,
    conversation_column,
    people_text,
    read_messages,
    read_tools,
    split_off_answer,
)
from svd_lightning.data.examples import ChoiceQuestion, Example, Message, as_context
from svd_lightning.data.source_rows import RowData, SourceRow
from svd_lightning.data.splits import SplitSizes, check_unique_ids, limited
from svd_lightning.errors import InputError


@dataclass(kw_only=True, eq=False, repr=False)
class JSONLData(RowData):
    """JSONL, JSON, CSV, TSV or Parquet files, dataset folders and hub datasets of prompts and completions.

    A row holds `prompt` and `completion`, or `messages`: a list of {role, content} in OpenAI's fine-tuning format,
    with `tools` beside it. Rows of ShareGPT (`conversations`) and Alpaca (`instruction`, `input`, `output`) are
    read too. All answers of a conversation are learned and scored; predict writes the last one. A split with a
    path of its own is taken whole; the others are cut from `path`.
    """

    predict_path: str | Path | None = None
    """Prompts to complete (completions may be missing); null takes those of the test split."""
    prompt_column: str = "prompt"
    """The column with the prompts."""
    completion_column: str = "completion"
    """The column with the completions."""
    messages_column: str = "messages"
    """The column with conversations; in a row that has it, it replaces prompt and completion."""
    tools_column: str = "tools"
    """The column with the tools of a conversation, a list of JSON schemas for the chat template."""
    last_turn_only: bool = False
    """Learn and score only the last answer of a conversation, not every one (of `weight` 1)."""
    task_column: str | None = "task"
    """The column with the task's name, where a row has one; each task has strengths of its own. Null for none."""
    split: str = "train"
    """The split of a folder or hub dataset to train on; the other paths read the splits validation and test."""

    def dataset_names(self) -> set[str]:
        """Return no name: the files may hold anything."""
        return set()

    def load(self) -> list[Example]:
        """Return the examples of `path`."""
        return self._read(self.path, split=self.split)

    def load_given_splits(self) -> dict[str, list[Example]]:
        """Return the splits that have a path of their own."""
        names_there = {"calibration": self.split, "validation": "validation", "test": "test", "predict": "test"}
        return {
            name: self._read(path, split=names_there[name], prompts_only=name == "predict")
            for name, path in self.split_paths().items()
        }

    def _read(self, source: str | Path, *, split: str, prompts_only: bool = False) -> list[Example]:
        rows = self.named_rows(source, split=split)
        examples = [self._example(row, name, prompts_only=prompts_only) for row, name in rows]
        cut = [row.where for (row, _), one in zip(rows, examples, strict=True) if self._cut(row, one)]
        if cut and not prompts_only:
            rank_zero_warn(
                f"{len(cut)} of {len(rows)} conversations go on after the last answer to learn, and what comes "
                f"after it is not used (first: {cut[0]})"
            )
        return examples

    def _example(self, row: SourceRow, name: str, *, prompts_only: bool) -> Example:
        if self._column(row) is not None:
            example = self._conversation(row, name, prompts_only=prompts_only)
        elif self.prompt_column not in row.values and "instruction" in row.values:
            answer = "" if prompts_only and row.values.get("output") is None else row.text("output")
            example = Example(name, alpaca_prompt(row), answer)
        else:
            prompt = row.text(self.prompt_column, option="prompt_column")
            absent = prompts_only and row.values.get(self.completion_column) is None
            completion = "" if absent else row.text(self.completion_column, option="completion_column")
            example = Example(name, prompt, completion)
        if not example.completion and not prompts_only:
            raise InputError(f"{row.where}: expected a completion, got an empty one; write it, or drop the row")
        return replace(example, task=row.text_if_any(self.task_column), where=row.where)

    def _conversation(self, row: SourceRow, name: str, *, prompts_only: bool) -> Example:
        messages = read_messages(row, self._column(row) or "")
        before, answer = split_off_answer(messages, row, prompts_only=prompts_only)
        return Example(
            name,
            people_text(before),
            "" if answer is None else answer_text(answer),
            messages=as_context(before) if self.last_turn_only else before,
            answer=answer if answer is not None and answer.fields else None,
            tools=read_tools(row, self.tools_column),
        )

    def _column(self, row: SourceRow) -> str | None:
        return conversation_column(row, self.messages_column, self.prompt_column)

    def _cut(self, row: SourceRow, example: Example) -> bool:
        """Whether the conversation in a row goes on after the example's completion."""
        column = self._column(row)
        return column is not None and len(read_messages(row, column)) > len(example.messages or ()) + 1


@dataclass(kw_only=True, eq=False, repr=False)
class Prompts(JSONLData):
    """Prompts to complete and nothing else: rows as in `JSONLData`, whose completions may be missing.

    `predict RUN --data FILE` reads them so; the data that the run was trained on are not opened.
    """

    def load(self) -> list[Example]:
        """Return nothing: there is nothing to train on."""
        return []

    def load_splits(self, sizes: SplitSizes | None = None) -> dict[str, list[Example]]:
        """Return the prompts as the split predict, and the others empty."""
        prompts = self._read(self.path, split=self.split, prompts_only=True)
        check_unique_ids(prompts, split="predict")
        given = limited(prompts, self.limit, seed=self.seed)
        return {"train": [], "calibration": [], "validation": [], "test": [], "predict": given}


@dataclass(kw_only=True, eq=False, repr=False)
class JSONLChoices(RecordedChoices):
    """JSONL, JSON, CSV, TSV or Parquet files, dataset folders and hub datasets of questions with choices.

    A row holds `prompt` (or `messages`, a list of {role, content} before the answer), `choices` (a list of
    completions, each as it follows the prompt, with its leading space), `correct` (indices of the right ones,
    from 0) and optionally `best` (the one to train on; without it the first right one). In tables, lists are
    written as JSON.
    """

    prompt_column: str = "prompt"
    """The column with the prompts."""
    messages_column: str = "messages"
    """The column with conversations; in a row that has it, it replaces the prompt."""
    tools_column: str = "tools"
    """The column with the tools of a conversation, a list of JSON schemas for the chat template."""
    choices_column: str = "choices"
    """The column with the choices."""
    correct_column: str = "correct"
    """The column with the indices of the right choices."""
    best_column: str = "best"
    """The column with the index of the choice to train on; the column may be missing."""
    task_column: str | None = "task"
    """The column with the task's name, where a row has one; null for none."""

    def dataset_names(self) -> set[str]:
        """Return no name: the files may hold anything."""
        return set()

    def question(self, row: SourceRow, name: str) -> ChoiceQuestion:
        """Return the question in a row."""
        choices = _parsed(row, self.choices_column, option="choices_column")
        if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
            raise InputError(
                f"{row.where}: expected a list of texts in {self.choices_column!r}, got {choices!r:.80}"
            )
        correct = _indices(row, self.correct_column, option="correct_column")
        messages: tuple[Message, ...] | None = None
        tools: tuple[Mapping[str, Any], ...] = ()
        if row.values.get(self.messages_column) not in (None, ""):
            messages = read_messages(row, self.messages_column)
            tools = read_tools(row, self.tools_column)
            if messages[-1].role == "assistant":
                raise InputError(f"{row.where}: expected messages before the answer, got the assistant's last")
            prompt = people_text(messages)
        else:
            prompt = row.text(self.prompt_column, option="prompt_column")
        return ChoiceQuestion(
            name,
            prompt,
            tuple(choices),
            correct=correct,
            best=self._best(row, correct),
            task=row.text_if_any(self.task_column),
            messages=messages,
            tools=tools,
            where=row.where,
        )

    def _best(self, row: SourceRow, correct: tuple[int, ...]) -> int:
        if row.values.get(self.best_column) in (None, ""):
            return correct[0] if correct else 0  # the question itself refuses to have no right choice
        best = _indices(row, self.best_column, option="best_column")
        if len(best) != 1:
            raise InputError(f"{row.where}: expected one index in {self.best_column!r}, got {list(best)}")
        return best[0]


def _parsed(row: SourceRow, column: str, *, option: str) -> Any:
    """Return the value in a column, reading text as JSON."""
    value = row.value(column, option=option)
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise InputError(f"{row.where}: expected JSON in {column!r}, got {value!r:.80}: {error.msg}") from error


def _indices(row: SourceRow, column: str, *, option: str) -> tuple[int, ...]:
    """The indices in a column that holds one, or a list of them."""
    value = _parsed(row, column, option=option)
    indices = value if isinstance(value, list) else [value]
    if any(isinstance(index, bool) or not isinstance(index, int) for index in indices):
        raise InputError(f"{row.where}: expected whole numbers from 0 in {column!r}, got {value!r:.80}")
    return tuple(indices)
