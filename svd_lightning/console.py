"""The console that tables are printed on."""

from rich.console import Console


def console() -> Console:
    """Return a console on the terminal; 120 columns wide if there is no terminal."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=120)
