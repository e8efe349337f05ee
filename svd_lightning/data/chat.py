"""Examples as the text that a tokenizer reads: conversations go through its chat template."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from transformers import PreTrainedTokenizerBase

from svd_lightning.data.control_tokens import ControlTokens
from svd_lightning.data.examples import Example, Message
from svd_lightning.errors import InputError

Turn = Mapping[str, Any]
"""A message as chat templates take it."""

_MUST_BE_READ = ("content", "tool_calls")
_IDS = ("id", "tool_call_id")


@dataclass(frozen=True)
class Rendered:
    """An example as text, with marks where users wrote control tokens."""

    prompt: str
    """What generation starts from."""
    answer: str
    """What the completion adds, end of turn included."""
    earlier: tuple[tuple[str, str], ...] = ()
    """For each earlier answer that is learned two beginnings of the prompt: that from which generation of the
    answer starts, and that before what the next message says."""
    chat: bool = True
    """Whether a chat template wrote it."""


class Renderer:
    """Renders the examples of a split.

    Args:
        controls: those of the tokenizer whose chat template renders conversations.
    """

    def __init__(self, controls: ControlTokens) -> None:
        self._controls, self._tokenizer = controls, controls.tokenizer
        self._checked: set[tuple[object, ...]] = set()

    def render(self, example: Example) -> Rendered:
        """Return the text before the answer, and the text that the answer adds.

        Raises:
            InputError: without a chat template, for one that fails on these messages, that leaves out what they
                say, or that changes the earlier turns when an answer is added: generation would then start from
                another prompt than training.
        """
        if example.messages is None:
            return Rendered(example.prompt, example.completion, chat=False)
        if not self._tokenizer.chat_template:
            raise InputError(
                f"messages: {example.place} is a conversation, but the tokenizer {_name(self._tokenizer)!r} has "
                "no chat template; name one with `backbone.chat_template`, use an instruction-tuned model's "
                "tokenizer, or give `prompt` and `completion`"
            )
        messages = [*example.messages]
        if example.completion or example.answer is not None:
            messages.append(example.answer or Message(role="assistant", content=example.completion))
        turns: list[Turn] = [self._controls.marked(message.as_turn()) for message in messages]
        tools = self._controls.marked(example.tools)
        prompt = self._apply(turns[: len(example.messages)], tools, answer_follows=True)
        whole = self._apply(turns, tools, answer_follows=False) if len(turns) > len(example.messages) else prompt
        if not whole.startswith(prompt):
            raise InputError(
                "messages: expected a chat template whose text of the whole conversation begins with the text "
                f"that generation starts from (…{prompt[-40:]!r}), got …{whole[-60:]!r}; give `prompt` and "
                "`completion` instead, or a tokenizer with another template"
            )
        self._check_read(turns, tools)
        learned = [k for k, one in enumerate(example.messages) if one.role == "assistant" and one.trained]
        before = [self._apply(turns[:k], tools, answer_follows=True) for k in learned]
        if not all(prompt.startswith(each) for each in before):
            raise InputError(
                "messages: expected a chat template that leaves the turns before an answer as they are when more "
                "follow, or earlier answers are learned from other prompts than they are generated from; set "
                "`data.last_turn_only: true`"
            )
        until = [self._before_content(prompt, turns[: k + 2], tools) for k in learned]
        answer = self._controls.until_end(whole[len(prompt) :])
        return Rendered(prompt, answer, tuple(zip(before, until, strict=True)))

    def _before_content(self, prompt: str, turns: Sequence[Turn], tools: Sequence[Turn]) -> str:
        """Return the beginning of a prompt that comes before what the last of these turns says."""
        *others, last = turns
        other = "y" if last["content"].lstrip().startswith("x") else "x"
        text = self._apply([*others, {**last, "content": other}], tools, answer_follows=False)
        return prompt[: alike(prompt, text)]

    def _check_read(self, turns: Sequence[Turn], tools: Sequence[Turn]) -> None:
        """Refuse a template that leaves out what a message says, or the tools; tries each kind of message once."""
        if tools and self._is_new("tools") and self._same(turns, tools, turns, ()):
            raise InputError(
                "tools: expected a chat template that writes the tools, got one that leaves them out; name "
                "another with `backbone.chat_template`, or drop the column"
            )
        for k, turn in enumerate(turns):
            for name in (name for name in turn if name not in ("role", *_IDS) and turn[name]):
                if self._is_new(name, turn["role"], k == 0, k == len(turns) - 1, *turn):
                    self._check_field(turns, tools, k, name)

    def _check_field(self, turns: Sequence[Turn], tools: Sequence[Turn], k: int, name: str) -> None:
        other = {**turns[k], name: f"{turns[k][name]} x"} if name == "content" else _without(turns[k], name)
        if not self._same(turns, tools, [*turns[:k], other, *turns[k + 1 :]], tools):
            return
        problem = f"messages: the chat template leaves out {name!r} of a message of role {turns[k]['role']!r}"
        if name in _MUST_BE_READ:
            raise InputError(f"{problem}; name another with `backbone.chat_template`, or change the data")
        rank_zero_warn(f"{problem}; it is not used")

    def _same(
        self, turns: Sequence[Turn], tools: Sequence[Turn], others: Sequence[Turn], other_tools: Sequence[Turn]
    ) -> bool:
        """Whether a template writes the same of other turns, rather than something else or an error."""
        answer_follows = turns[-1]["role"] != "assistant"
        text = self._apply(turns, tools, answer_follows=answer_follows)
        try:
            return text == self._apply(others, other_tools, answer_follows=answer_follows)
        except InputError:
            return False

    def _is_new(self, *kind: object) -> bool:
        new = kind not in self._checked
        self._checked.add(kind)
        return new

    def _apply(self, turns: Sequence[Turn], tools: Sequence[Turn], *, answer_follows: bool) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                [dict(turn) for turn in turns],
                tools=[dict(tool) for tool in tools] or None,
                tokenize=False,
                add_generation_prompt=answer_follows,
            )
        except Exception as error:  # a template is a program, and may raise anything
            roles = ", ".join(" ".join(turn["role"].split()) for turn in turns)
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"messages: the chat template refuses the roles ({roles}): {reason}") from error
        return str(text)


def alike(one: Sequence[object], other: Sequence[object]) -> int:
    """Return how many items two sequences have in common from their beginning on.

    >>> alike([1, 2, 3], [1, 2, 4]), alike("ab", "abc")
    (2, 2)
    """
    differ = (k for k, (this, that) in enumerate(zip(one, other, strict=False)) if this != that)
    return next(differ, min(len(one), len(other)))


def _without(turn: Turn, name: str) -> Turn:
    return {key: value for key, value in turn.items() if key != name}


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return tokenizer.name_or_path or type(tokenizer).__name__
