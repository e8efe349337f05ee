"""The console that tables are printed on."""

import io
from collections.abc import Iterable

from rich.console import Console, RenderableType


def console() -> Console:
    """Return a console on the terminal; 120 columns wide if there is no terminal."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=120)


def as_text(parts: Iterable[RenderableType]) -> str:
    """Return what a console without a terminal would print of these, on lines of their own."""
    file = io.StringIO()
    for part in parts:
        Console(file=file, width=120).print(part, markup=False)
    return f"\n{file.getvalue().rstrip()}"
