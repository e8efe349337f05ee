"""An inspection in the terminal."""

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from svd_lightning.commands.inspect.pieces import Piece
from svd_lightning.commands.inspect.views import FLIP, Place, level, number_text

_COLOURS = ("", "on #4a2c12", "on #6b3a10", "on #8f4a10", "on #b45b12", "on #d06a14")
"""The background of each level, for white letters."""


def terminal_view(places: Sequence[Place], *, masked: bool, summary: str) -> Group:
    """Show the completion with its colours, then a row per position."""
    return Group(
        Text(f"{summary}\nDeeper colour: moved further; {FLIP}: not what the tuned model puts first\n"),
        _completion(places),
        Text(),
        _table(places, masked=masked),
    )


def _piece_text(piece: Piece) -> Text:
    """Return a piece with its markers dimmed."""
    return Text.assemble(*((part.text, "dim" if part.marker else "") for part in piece.parts))


def _completion(places: Sequence[Place]) -> Text:
    whole = Text(overflow="fold")
    for position, names in places:
        piece = names[position.chosen.token]
        depth = level(position.shift)
        token = Text.assemble((FLIP if position.flipped else "", "bold"), _piece_text(piece))
        token.stylize(f"white {_COLOURS[depth]}" if depth else "")
        if position.flipped:
            token.stylize("underline")
        whole.append_text(token)
        if piece.text.endswith("\n"):
            whole.append("\n")
    return whole


def _table(places: Sequence[Place], *, masked: bool) -> Table:
    table = Table()
    table.add_column("", justify="right")
    for name in ("token", f"{FLIP} tuned first"):
        table.add_column(name, overflow="fold")
    for name in ("moved", "p base", "p tuned", "p steered", "KL(p‖q)", "entropy", *["mask"] * masked):
        table.add_column(name, justify="right")
    for n, (position, names) in enumerate(places, start=1):
        chosen = position.chosen
        numbers = (position.shift, *chosen.probability, position.divergence, position.entropy.tuned)
        table.add_row(
            str(n),
            _piece_text(names[chosen.token]),
            _piece_text(names[position.first.tuned]) if position.flipped else "",
            *map(number_text, numbers),
            *[f"{'in' if chosen.confident else 'out'} {position.mask_size}"] * masked,
        )
    return table
