"""Where tables are printed."""

from rich.console import Console


def console() -> Console:
    """The terminal, or 120 columns where there is none."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=120)
