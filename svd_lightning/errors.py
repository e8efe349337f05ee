"""Exceptions whose message is the one line that a user reads: what is wrong, and how to mend it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class InputError(ValueError):
    """Bad input from a user; the command line prints its message as one line, without a traceback."""


class LogitsError(InputError):
    """Logits from which no token can be picked: weights, adapter or number format are to blame, no request."""


class DiskError(OSError):
    """A file that could not be written; the message says which, why, what is still good, and what to do."""


@contextmanager
def explained(kinds: tuple[type[Exception], ...], message: Callable[[str], str]) -> Iterator[None]:
    """Turn errors of these kinds into an `InputError` of one line; an `InputError` stays as it is.

    Args:
        kinds: what a loader raises for files that are missing, broken, or made for something else.
        message: takes the first line of the loader's message, which is often long, and returns the whole one.
    """
    try:
        yield
    except InputError:
        raise
    except kinds as error:
        lines = (line.strip() for line in str(error).splitlines())
        raise InputError(message(next(filter(None, lines), type(error).__name__))) from error


def meant(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean …?" with the nearest of the known words, or "" if none is near.

    A class is known by its name, or by a path that ends with it.

    >>> meant("tset", ["fit", "test"]), meant("nothing", ["fit", "test"])
    ('; did you mean test?', '')
    """
    by_name = {one if one.startswith("-") else one.rpartition(".")[2].lower(): one for one in known}
    near = get_close_matches(word if word.startswith("-") else word.lower(), by_name, n=1)
    return f"; did you mean {by_name[near[0]]}?" if near else ""
