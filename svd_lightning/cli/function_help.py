"""Short help of verbs that are functions, read from their source text: importing them takes seconds."""

import ast
from collections.abc import Iterator
from pathlib import Path
from textwrap import fill
from typing import NamedTuple

from docstring_parser import parse

from svd_lightning.cli.verbs import COMMANDS

_ROOT = Path(__file__).parents[2]


class Argument(NamedTuple):
    """An argument of a function, as help shows it."""

    name: str
    about: str
    default: str | None
    """As the source writes it; None for an argument that must be given, which has no name on the command line."""

    @property
    def option(self) -> str:
        """What stands on the command line."""
        return self.name.upper() if self.default is None else f"--{self.name}"


def function_help(verb: str) -> str:
    """Return the help of a verb of `COMMANDS`."""
    found = list(arguments(verb))
    needed = "".join(f" {one.option}" for one in found if one.default is None)
    lines = [f"usage: svd-lightning {verb}{needed} [options]", "", COMMANDS[verb].about, ""]
    for one in sorted(found, key=lambda one: one.default is not None):
        shown = "" if one.default in (None, "None") else f" (default: {one.default})"
        lines.append(_entry(one.option, f"{one.about}{shown}"))
    lines += [_entry("--help.all", "types, and the options of classes that an option takes"), ""]
    return "\n".join([*lines, "Example:", f"  svd-lightning {COMMANDS[verb].example}"])


def _entry(option: str, about: str) -> str:
    return fill(about, 100, initial_indent=f"  {option:<22} ", subsequent_indent=" " * 25)


def arguments(verb: str) -> Iterator[Argument]:
    """Yield the arguments of the function behind a verb of `COMMANDS`, in order."""
    module, _, name = COMMANDS[verb].target.partition(":")
    source = _ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
    [function] = [
        node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    about = {one.arg_name: one.description for one in parse(ast.get_docstring(function) or "").params}
    given = function.args
    defaults = [*[None] * len(given.args), *given.kw_defaults]
    for argument, default in zip([*given.args, *given.kwonlyargs], defaults, strict=True):
        text = " ".join((about.get(argument.arg) or "").split())
        yield Argument(argument.arg, text.rstrip("."), None if default is None else _shown(default))


def _shown(default: ast.expr) -> str:
    """Return a default without the quotes of a text; of a call, the class that it makes."""
    if isinstance(default, ast.Constant):
        return str(default.value)
    return ast.unparse(default.args[0] if isinstance(default, ast.Call) and default.args else default)
