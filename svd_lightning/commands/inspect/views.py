"""Numbers, colours and marks that the page, the notebook and the terminal share; and the templates."""

from bisect import bisect_right
from collections.abc import Mapping
from pathlib import Path

from svd_lightning.commands.inspect.pieces import Piece
from svd_lightning.commands.inspect.positions import Position
from svd_lightning.report.render import templates

LEVELS = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Where the next deeper colour begins, in nats; the same in every page, so that pages can be compared."""

Place = tuple[Position, Mapping[int, Piece]]
"""A position with the text of its ranked tokens, by token id."""

FLIP = "≠"
"""Marks a flipped token: its likeliest token under steering is not the tuned model's."""


def level(shift: float) -> int:
    """Return the depth of the colour, 0 to 5.

    >>> level(0.0), level(0.2), level(3.0)
    (0, 3, 5)
    """
    return bisect_right(LEVELS, shift)


def number_text(value: float) -> str:
    """Return a number to three decimals, a smaller one with an exponent, an exact 0 without decimals.

    >>> number_text(0.25), number_text(0.00002), number_text(0.0)
    ('0.250', '2e-05', '0')
    """
    if value == 0.0:
        return "0"
    return f"{value:.3f}" if value >= 0.0005 else f"{value:.0e}"


def label(position: Position, names: Mapping[int, Piece]) -> str:
    """Return a token as a screen reader says it."""
    chosen = names[position.chosen.token]
    text = f"{chosen.text.strip() or chosen.shown}, moved {number_text(position.shift)} nats"
    return text + (f", flipped from {names[position.first.tuned].shown}" if position.flipped else "")


TEMPLATES = templates(Path(__file__).parent)
TEMPLATES.filters |= {"level": level, "number": number_text}
TEMPLATES.globals |= {"LEVELS": LEVELS, "FLIP": FLIP, "label": label}
