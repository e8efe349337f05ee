"""Examples and questions, before they are tokenised."""

from dataclasses import dataclass, field

from svd_lightning.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: str
    """Who speaks: `system`, `user`, `assistant`, or another role that the chat template knows."""
    content: str
    """The text of the turn."""


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
    """The conversation before the completion; the tokenizer's chat template turns it into the prompt."""
    task: str | None = None
    """The task of the example, where a dataset mixes several."""
    question: "ChoiceQuestion | None" = field(default=None, repr=False, compare=False)
    """The question with choices behind the example, if there is one."""

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
        return tuple(
            Example(self.id, self.prompt, choice, messages=self.messages, task=self.task, question=self)
            for choice in self.choices
        )
