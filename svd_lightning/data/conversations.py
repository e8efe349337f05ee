"""Conversations in a row, as OpenAI's fine-tuning format, ShareGPT and Alpaca write them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from svd_lightning.data.examples import Message
from svd_lightning.data.source_rows import SourceRow
from svd_lightning.errors import InputError

_SHAREGPT = "conversations"
"""The column of ShareGPT rows: turns of {from, value}."""

_SPEAKERS = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
}
"""Roles by what ShareGPT rows call them."""

_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)
_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)


def conversation_column(row: SourceRow, messages_column: str, prompt_column: str) -> str | None:
    """Return the column with the row's conversation; None if it has none."""
    columns = [messages_column] if prompt_column in row.values else [messages_column, _SHAREGPT]
    return next((column for column in columns if row.values.get(column) not in (None, "")), None)


def read_messages(row: SourceRow, column: str) -> tuple[Message, ...]:
    """Return the turns of a conversation in a column, as {role, content} or {from, value}; in tables as JSON.

    An assistant's turn of `weight` 0 is not learned. Its `tool_calls` (or `function_call`) stay with it.

    Raises:
        InputError: for anything else, or a conversation of one answer alone.
    """
    turns = _as_json(row.value(column))
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise InputError(
            f"{row.where}: expected in {column!r} a list of {{role: text, content: text}}, got {turns!r:.80}"
        )
    messages = tuple(_message(turn, row.where, column) for turn in turns)
    system = row.text_if_any("system") if column == _SHAREGPT else None
    if system is not None:
        messages = (Message(role="system", content=system), *messages)
    if len(messages) == 1 and messages[0].role == "assistant":
        raise InputError(f"{row.where}: expected a message before the assistant's, got only that one")
    return messages


def read_tools(row: SourceRow, column: str) -> tuple[Mapping[str, Any], ...]:
    """Return the tools in a column, a list of JSON schemas; none where it is missing or empty.

    Raises:
        InputError: for anything else.
    """
    if row.values.get(column) in (None, "", []):
        return ()
    tools = _as_json(row.value(column))
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise InputError(f"{row.where}: expected in {column!r} a list of JSON schemas, got {tools!r:.80}")
    return tuple(tools)


def split_off_answer(
    messages: Sequence[Message], row: SourceRow, *, prompts_only: bool
) -> tuple[tuple[Message, ...], Message | None]:
    """Return the messages before the last answer that is learned, and that answer.

    Turns after it are left out, as no label depends on them. Prompts alone keep all messages, but for an answer at
    the end.

    Raises:
        InputError: without an answer that is learned, or without a message before it.
    """
    if prompts_only:
        answered = len(messages) > 1 and messages[-1].role == "assistant"
        return (tuple(messages[:-1]), messages[-1]) if answered else (tuple(messages), None)
    places = [k for k, one in enumerate(messages) if one.role == "assistant" and one.trained]
    if not places or places[-1] == 0:
        raise InputError(
            f"{row.where}: expected a completion, got none: no message of the assistant (of weight 1) follows "
            "another; write it, or drop the row"
        )
    return tuple(messages[: places[-1]]), messages[places[-1]]


def people_text(messages: Sequence[Message]) -> str:
    """Return a conversation as people read it: who speaks is said where there are several messages."""
    if len(messages) == 1:
        return messages[0].content
    return "\n".join(f"{message.role}: {answer_text(message)}" for message in messages)


def answer_text(message: Message) -> str:
    """Return what a message says, its calls of tools as JSON."""
    calls = message.fields.get("tool_calls")
    return "\n".join(filter(None, (message.content, calls and json.dumps(calls, ensure_ascii=False))))


def alpaca_prompt(row: SourceRow) -> str:
    """Return the prompt that Stanford Alpaca makes of instruction and input; its response follows after a newline.

    Raises:
        InputError: for a row with a system message or earlier turns, for which this prompt has no place.
    """
    if any(row.values.get(column) for column in ("system", "history")):
        raise InputError(
            f"{row.where}: expected instruction, input and output, got 'system' or 'history' too; write such rows "
            "as `messages`"
        )
    instruction, given = row.text("instruction"), row.text_if_any("input")
    parts = [_WITHOUT_INPUT if given is None else _WITH_INPUT, f"### Instruction:\n{instruction}"]
    parts += [] if given is None else [f"### Input:\n{given}"]
    return "\n\n".join([*parts, "### Response:\n"])


def _message(turn: Mapping[str, Any], where: str, column: str) -> Message:
    fields = {name: value for name, value in turn.items() if value is not None}  # Parquet fills up with None
    weight = fields.pop("weight", None)
    if "from" in fields and "role" not in fields:
        fields = _from_sharegpt(fields, where)
    role, content = fields.pop("role", None), fields.pop("content", None)
    if (legacy := fields.pop("function_call", None)) is not None:
        fields["tool_calls"] = [legacy]
    if "tool_calls" in fields:
        fields["tool_calls"] = _calls(fields["tool_calls"], where)
        content = "" if content is None else content
    if not isinstance(role, str) or not isinstance(content, str):
        raise InputError(
            f"{where}: expected in {column!r} a list of {{role: text, content: text}}, got "
            f"{{role: {role!r:.40}, content: {content!r:.40}}}"
        )
    if weight not in (None, 0, 1) or (weight == 1 and role != "assistant"):
        raise InputError(
            f"{where}: expected in {column!r} a weight of 0 or 1, and 1 for the assistant's messages only, got "
            f"{weight!r:.40} for {role!r:.40}"
        )
    return Message(role=role, content=content, fields=fields, trained=weight != 0)


def _from_sharegpt(turn: Mapping[str, Any], where: str) -> dict[str, Any]:
    rest = {name: each for name, each in turn.items() if name not in ("from", "value")}
    speaker, value = turn["from"], turn.get("value")
    if not isinstance(speaker, str) or speaker not in _SPEAKERS:
        raise InputError(f"{where}: expected 'from' to be one of {', '.join(_SPEAKERS)}, got {speaker!r:.40}")
    said = {"function_call": _as_json(value)} if speaker == "function_call" else {"content": value}
    return {**rest, "role": _SPEAKERS[speaker], **said}


def _calls(calls: Any, where: str) -> list[dict[str, Any]]:
    """Return calls of tools as chat templates take them: arguments as an object, where OpenAI has JSON text."""
    found = []
    for call in calls if isinstance(calls, list) else [calls]:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InputError(
                f"{where}: expected a call of a tool as {{function: {{name: text, arguments: object}}}}, got "
                f"{call!r:.80}"
            )
        rest = {name: each for name, each in call.items() if name not in ("name", "arguments")}
        arguments = _as_json(function.get("arguments", {}))
        found.append({"type": "function", **rest, "function": {**function, "arguments": arguments}})
    return found


def _as_json(value: Any) -> Any:
    """Return what JSON text says; anything else, text that is no JSON too, as it is."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value
