"""Examples and questions, before they are tokenised."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from svd_lightning.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: str
    """Who speaks: `system`, `user`, `assistant`, or another role that the chat template knows."""
    content: str
    """The text of the turn."""
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What else the chat template may read: `tool_calls`, `name` and the like."""
    trained: bool = True
    """Whether an assistant's turn is to be learned; other turns never are."""

    def as_turn(self) -> dict[str, Any]:
        """Return the message as chat templates take it."""
        return {"role": self.role, "content": self.content, **self.fields}


def as_context(messages: Iterable[Message]) -> tuple[Message, ...]:
    """Return the messages with no turn of the assistant to be learned."""
    return tuple(replace(one, trained=one.trained and one.role != "assistant") for one in messages)


@dataclass(frozen=True)
class Example:
    """A prompt and the completion that the model should give.

    >>> Example("capital-1", "Q: Capital of Peru?\\nA:", " Lima").family
    'capital-1'
    """

    id: str
    """Unique within the dataset: splits, predictions and checks for overlap use it."""
    prompt: str
    """What the model reads. For a conversation: its text without the template, which only people read."""
    completion: str
    """What the model should write; empty only for a prompt to be completed."""
    group: str | None = None
    """Examples of one group (the answers to one question, say) are always in the same split."""
    messages: tuple[Message, ...] | None = None
    """The conversation before the completion; the tokenizer's chat template turns it into the prompt. Answers in
    it are learned too, unless they say otherwise."""
    task: str | None = None
    """The task of the example, where a dataset mixes several."""
    answer: Message | None = None
    """The completion as a message, where it is more than text: the calls of tools."""
    tools: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    """Descriptions (JSON schemas) of the tools that a conversation may call, for the chat template."""
    where: str | None = field(default=None, repr=False, compare=False)
    """File and row, for error messages."""
    question: "ChoiceQuestion | None" = field(default=None, repr=False, compare=False)
    """The question with choices behind the example, if there is one."""

    @property
    def place(self) -> str:
        """Where to look for the example: file and row, or its id."""
        return self.where or f"example {self.id!r}"

    @property
    def free_text(self) -> bool:
        """Whether the answer is read as it is written: there are no choices, or a judge is asked about it."""
        return self.question is None or self.question.asked is not None

    @property
    def references(self) -> tuple[str, ...]:
        """The right answers: the completion, or the right choices."""
        question = self.question
        return (self.completion,) if question is None else tuple(question.choices[i] for i in question.correct)

    @property
    def family(self) -> str:
        """What the splits keep together: the group, or the example alone if it has none."""
        return self.id if self.group is None else self.group


@dataclass(frozen=True)
class ChoiceQuestion:
    """A prompt and several completions of which some are right.

    >>> ChoiceQuestion("1", "2 + 2 =", (" 5", " 4"), correct=(1,), best=1).choices[1]
    ' 4'

    Raises:
        InputError: without choices, without a right one, or for an index beyond them.
    """

    id: str
    """Unique within the dataset; also the id of an `Example` made of the question."""
    prompt: str
    """What the model reads."""
    choices: tuple[str, ...]
    """The completions that are scored, each with its leading space."""
    correct: tuple[int, ...]
    """Indices of the right choices."""
    best: int
    """Index of the choice that is trained on."""
    task: str | None = None
    """The task of the question, where a dataset mixes several."""
    messages: tuple[Message, ...] | None = None
    """The conversation before the choices; the tokenizer's chat template turns it into the prompt."""
    asked: str | None = None
    """The question alone, for a judge of the answer, where the prompt says more."""
    tools: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    """Descriptions (JSON schemas) of the tools in a conversation."""
    where: str | None = field(default=None, repr=False, compare=False)
    """File and row, for error messages."""

    def __post_init__(self) -> None:
        if not self.choices:
            raise InputError(f"question {self.id!r}: expected choices, got none")
        if any(not choice.strip() for choice in self.choices):
            raise InputError(f"question {self.id!r}: expected choices with text, got {self.choices!r:.200}")
        if not self.correct:
            raise InputError(f"question {self.id!r}: expected at least one right choice, got none")
        indices = range(len(self.choices))
        if any(index not in indices for index in (*self.correct, self.best)) or self.best not in self.correct:
            raise InputError(
                f"question {self.id!r}: expected right choices among 0 to {len(self.choices) - 1} and the best "
                f"among the right ones, got correct {self.correct} and best {self.best}"
            )

    def as_example(self) -> Example:
        """Return the prompt with its best choice, for training and calibration."""
        return self.as_examples()[self.best]

    def as_examples(self) -> tuple[Example, ...]:
        """Return the prompt with each of its choices, all under one id, for scoring."""
        shared = Example(
            self.id,
            self.prompt,
            "",
            messages=None if self.messages is None else as_context(self.messages),
            task=self.task,
            question=self,
            tools=self.tools,
            where=self.where,
        )
        return tuple(replace(shared, completion=choice) for choice in self.choices)
