"""`InputError`: what a user gave is wrong, and the message says how to put it right."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Bad input from a user; the command line prints its message as one line, without a traceback."""


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
