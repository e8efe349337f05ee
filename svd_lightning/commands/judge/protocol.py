"""What a judge is: it says of each answer whether it is truthful and whether it is informative."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from svd_lightning.commands.judge.replies import Replies

Progress = Callable[[int, int], None]
"""Told how many of how many are done."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model said to a question, and what is known of the question."""

    question: str
    """The question as people read it."""
    text: str
    """What was generated."""
    correct: tuple[str, ...] = ()
    """Right answers, as far as they are known."""
    incorrect: tuple[str, ...] = ()
    """Wrong answers, as far as they are known."""


@dataclass(frozen=True)
class Verdict:
    """A judge's two verdicts on one answer; None where it abstained."""

    truthful: bool | None
    """Whether the answer is true."""
    informative: bool | None
    """Whether it says something that helps."""
    evidence: tuple[str, str]
    """What each of the two rests on: the judge's reply, or the nearest reference."""


@runtime_checkable
class Judge(Protocol):
    """Gives a verdict on every answer. A new judge is one new file with these three members."""

    @property
    def label(self) -> str:
        """Who judged, in few words; stands wherever its numbers do."""
        ...

    @property
    def about(self) -> str:
        """One sentence on what its numbers are, for captions."""
        ...

    def verdicts(self, answers: Sequence[Answer], *, replies: Replies, progress: Progress) -> list[Verdict]:
        """Judge some answers.

        Args:
            answers: in any order; the same answer may come twice.
            replies: what models said in earlier runs; new replies are added as they come.
            progress: called after every reply.

        Returns:
            One verdict per answer, in order.

        Raises:
            InputError: for a judge that cannot be asked; the replies so far are kept.
        """
        ...
