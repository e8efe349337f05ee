"""The answers that a server has to write, with room for so many and no more. Any thread may call it."""

import threading
from collections import deque
from collections.abc import Sequence

from svd_lightning.commands.serve.answer import Answer, Piece


class FullError(Exception):
    """There is no room for more answers now."""


class ClosedError(Exception):
    """No answers are written any more."""


class Line:
    """Answers that wait, first come first served, and those that are being written.

    Args:
        places: how many there may be at most, of both kinds together.
    """

    def __init__(self, places: int) -> None:
        self.places = places
        self._inside: set[Answer] = set()
        self._waiting: deque[Answer] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._inside)

    @property
    def waiting(self) -> int:
        """How many are not being written yet."""
        return len(self._waiting)

    def enter(self, answers: Sequence[Answer]) -> None:
        """Let all answers of a request in, or none of them.

        Raises:
            FullError: if there are not as many places.
            ClosedError: if the line is closed.
        """
        with self._changed:
            if self._closed:
                raise ClosedError
            if len(self._inside) + len(answers) > self.places:
                raise FullError
            self._inside.update(answers)
            self._waiting.extend(answers)
            self._changed.notify()

    def leave(self, answers: Sequence[Answer]) -> None:
        """Free the places of answers that are written, or that nobody waits for any more: these are given up."""
        with self._changed:
            for answer in answers:
                answer.gone = True
                self._inside.discard(answer)
            self._waiting = deque(answer for answer in self._waiting if not answer.gone)

    def joins(self, beside: Sequence[Answer]) -> bool:
        """Return whether the first that waits can be written beside these."""
        with self._changed:
            return bool(self._waiting) and _fits(self._waiting[0], beside)

    def take(self, count: int, beside: Sequence[Answer]) -> list[Answer]:
        """Return up to this many that wait and can be written beside these; wait for one if these are none.

        Nobody overtakes: if the first that waits does not fit, none is taken. A closed line has none.
        """
        with self._changed:
            while not (beside or self._waiting or self._closed):
                self._changed.wait()
            taken: list[Answer] = []
            while self._waiting and len(taken) < count and _fits(self._waiting[0], [*beside, *taken]):
                taken.append(self._waiting.popleft())
            return taken

    def close(self) -> None:
        """Let nobody in any more, and give up all that are inside, who are told."""
        with self._changed:
            self._closed = True
            inside = list(self._inside)
            self._changed.notify_all()
        self.leave(inside)
        for answer in inside:
            answer.tell(Piece(answer.choice, problem=ClosedError()))


def _fits(answer: Answer, beside: Sequence[Answer]) -> bool:
    return all(other.row.adapter_scale == answer.row.adapter_scale for other in beside[:1])
