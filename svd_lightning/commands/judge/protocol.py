"""What a judge is: it says whether an answer is truthful, and whether it is informative."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from svd_lightning.commands.judge.replies import Replies

Progress = Callable[[int, int], None]
"""Takes the number of replies so far, and of all replies."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A model's answer to a question, with right and wrong ones."""

    question: str
    """The question as people read it."""
    text: str
    """The answer."""
    correct: tuple[str, ...] = ()
    """Right answers, if the dataset has them."""
    incorrect: tuple[str, ...] = ()
    """Wrong answers, if the dataset has them."""


@dataclass(frozen=True)
class Opinion:
    """What a judge thinks of one answer; None where it abstained."""

    truthful: bool | None
    """Whether the answer is true."""
    informative: bool | None
    """Whether it says something that helps."""
    evidence: tuple[str, str]
    """The reason for each of the two: the judge's reply, or the nearest reference."""


Verdict = Opinion
"""The old name of `Opinion`."""


@runtime_checkable
class Judge(Protocol):
    """Gives an opinion on every answer. A new judge is one class with these three members."""

    @property
    def label(self) -> str:
        """The judge's name, shown wherever its numbers are."""
        ...

    @property
    def about(self) -> str:
        """A sentence on how its numbers are made, shown below tables."""
        ...

    def verdicts(self, answers: Sequence[Answer], *, replies: Replies, progress: Progress) -> list[Opinion]:
        """Give an opinion on each answer.

        Args:
            answers: in any order; the same answer may come twice.
            replies: replies of models in earlier runs; new ones are added as they come.
            progress: called after every reply.

        Returns:
            One opinion per answer, in order.

        Raises:
            InputError: for a judge that cannot be asked; the replies so far are kept.
        """
        ...
