"""What a judge is: it says whether an answer is truthful and whether it is informative."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from svd_lightning.commands.judge.replies import Replies

Progress = Callable[[int, int], None]
"""Called with how many replies there are, and how many there will be."""


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
class Opinion:
    """What a judge thinks of one answer; None where it abstained."""

    truthful: bool | None
    """Whether the answer is true."""
    informative: bool | None
    """Whether it says something that helps."""
    evidence: tuple[str, str]
    """What each of the two rests on: the judge's reply, or the nearest reference."""


Verdict = Opinion
"""The old name of `Opinion`."""


@runtime_checkable
class Judge(Protocol):
    """Gives an opinion on every answer. A new judge is one new file with these three members."""

    @property
    def label(self) -> str:
        """Who judged, in few words; shown wherever its numbers are."""
        ...

    @property
    def about(self) -> str:
        """A sentence on what its numbers are, for captions."""
        ...

    def verdicts(self, answers: Sequence[Answer], *, replies: Replies, progress: Progress) -> list[Opinion]:
        """Give an opinion on each answer.

        Args:
            answers: in any order; the same answer may come twice.
            replies: what models said in earlier runs; new replies are added as they come.
            progress: called after every reply.

        Returns:
            One opinion per answer, in order.

        Raises:
            InputError: for a judge that cannot be asked; the replies so far are kept.
        """
        ...
