"""Messages about misspelt verbs, options, classes and choices: one short line, with the nearest right word."""

import ast
import re
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from inspect import isclass, signature
from pkgutil import resolve_name
from typing import Any, get_args

from svd_lightning.errors import meant

_KEY = re.compile(r'(?:^|: )Parser key "([^"]+)": ')
_NO_OPTION = re.compile(r"Problem with given class_path '([^']+)': Option '([^']+)' is not accepted")
_NO_CLASS = re.compile(
    r"Expected a dot import path string: ([\w.]+)|has no attribute '(\w+)'|No module named '(\S+)'"
)
_CHOICES = re.compile(r"typing\.Literal(\[[^\]]*\])|<enum '\w+'>: \{([^}]*)\}|(<class 'bool'>)")
_VALUE = re.compile(r"(?:Given value|Got value): (.+?)(?: Given value type: .*| - Expected .*)?$")


def in_one_line(message: str, parser: ArgumentParser) -> str:
    """Return a parser's message in one line, shorter and with the nearest right word if something is misspelt."""
    line = " ".join(message.split())
    if line.startswith("unrecognized arguments: "):
        words = (word.partition("=")[0] for word in line.split() if word.startswith("--"))
        return line + next(filter(None, (meant(word, parser._option_string_actions) for word in words)), "")
    if not (keys := _KEY.findall(line)):
        return line
    key = ".".join(keys)
    if option := _NO_OPTION.search(line):
        return f"{key}.{option[2]}: not an option of {option[1]}{meant(option[2], _arguments(option[1]))}"
    if wrong := next(filter(None, (match[0] or match[1] or match[2] for match in _NO_CLASS.findall(line))), ""):
        known = _class_names(parser, keys[0])
        return f"{key}: there is no class {wrong!r}{meant(wrong.rpartition('.')[2], known) or _one_of(known)}"
    if (choices := list(dict.fromkeys(_choices(line)))) and (value := _VALUE.search(line)):
        return f"{key}: expected one of {', '.join(choices)}, got {value[1]!r}{meant(value[1], choices)}"
    return line


def _choices(line: str) -> Iterator[str]:
    """Yield the values that a message says are allowed."""
    for literal, members, truth in _CHOICES.findall(line):
        yield from map(str, ast.literal_eval(literal)) if literal else ()
        yield from members.split(",") if members else ()
        yield from ("true", "false") if truth else ()


def _arguments(class_path: str) -> list[str]:
    return list(signature(resolve_name(class_path)).parameters)


def _class_names(parser: ArgumentParser, key: str) -> list[str]:
    """Return how the classes that an option takes are written, as far as they are imported."""
    action = next((action for action in parser._actions if action.dest == key), None)
    return sorted({name for name in _written(getattr(action, "_typehint", None)) if not name.startswith("_")})


def _written(hint: Any) -> Iterator[str]:
    """Yield the names of the classes in a type hint and of their subclasses.

    A protocol has no subclasses: its classes stand in its package, and their whole path must be given.
    """
    for part in get_args(hint):
        yield from _written(part)
    if not isclass(hint) or hint.__module__ in ("builtins", "collections.abc", "pathlib"):
        return
    if getattr(hint, "_is_protocol", False):
        package = hint.__module__.rpartition(".")[0]
        yield from (f"{package}.{name}" for name in resolve_name(package).__all__ if name[0].isupper())
    else:
        yield hint.__name__
        for one in hint.__subclasses__():
            yield from _written(one)


def _one_of(known: Sequence[str]) -> str:
    return f"; known are {', '.join(known)}" if known else ""
