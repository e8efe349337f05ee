"""Positions in the terminal."""

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from svd_lightning.commands.inspect.pieces import Piece
from svd_lightning.commands.inspect.positions import Position
from svd_lightning.commands.inspect.views import FLIP, Pieces, level, number_text

_COLOURS = ("", "on #4a2c12", "on #6b3a10", "on #8f4a10", "on #b45b12", "on #d06a14")
"""Of the levels; white letters on each."""


def terminal_view(positions: Sequence[Position], pieces: Sequence[Pieces], *, masked: bool, summary: str) -> Group:
    """The completion with its colours, then a row per position."""
    return Group(
        Text(f"{summary}\nDeeper colour: moved further; {FLIP}: not what the tuned model puts first\n"),
        _completion(positions, pieces),
        Text(),
        _table(positions, pieces, masked=masked),
    )


def piece_text(piece: Piece) -> Text:
    """The piece, its markers dimmed."""
    return Text.assemble(*((part.text, "dim" if part.marker else "") for part in piece.parts))


def _completion(positions: Sequence[Position], pieces: Sequence[Pieces]) -> Text:
    whole = Text(overflow="fold")
    for position, names in zip(positions, pieces, strict=True):
        piece = names[position.chosen.token]
        depth = level(position.shift)
        token = Text.assemble((FLIP if position.flipped else "", "bold"), piece_text(piece))
        token.stylize(f"white {_COLOURS[depth]}" if depth else "")
        if position.flipped:
            token.stylize("underline")
        whole.append_text(token)
        if piece.text.endswith("\n"):
            whole.append("\n")
    return whole


def _table(positions: Sequence[Position], pieces: Sequence[Pieces], *, masked: bool) -> Table:
    table = Table()
    table.add_column("", justify="right")
    for name in ("token", f"{FLIP} tuned first"):
        table.add_column(name, overflow="fold")
    numbers = ("moved", "p base", "p tuned", "p steered", "KL(p‖q)", "entropy", *(("mask",) if masked else ()))
    for name in numbers:
        table.add_column(name, justify="right")
    for n, (position, names) in enumerate(zip(positions, pieces, strict=True)):
        chosen = position.chosen
        row = [
            Text(str(n + 1)),
            piece_text(names[chosen.token]),
            piece_text(names[position.first.tuned]) if position.flipped else Text(),
            Text(number_text(position.shift)),
            *(Text(number_text(value)) for value in chosen.probability),
            Text(number_text(position.divergence)),
            Text(number_text(position.entropy.tuned)),
        ]
        if masked:
            row.append(Text(f"{'in' if chosen.confident else 'out'} {position.mask_size}"))
        table.add_row(*row)
    return table
