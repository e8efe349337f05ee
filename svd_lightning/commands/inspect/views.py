"""Positions as HTML: tokens, panels and the table. Every text is escaped here."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from html import escape

from svd_lightning.commands.inspect.pieces import Piece
from svd_lightning.commands.inspect.positions import Candidate, Position

LEVELS = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Where the next deeper colour begins, in nats; the same in every page, so that pages can be compared."""

Pieces = Mapping[int, Piece]

FLIP = "≠"
"""Marks a flipped token: its likeliest token under steering is not the tuned model's."""


def level(shift: float) -> int:
    """The depth of the colour, 0 to 5.

    >>> level(0.0), level(0.2), level(3.0)
    (0, 3, 5)
    """
    return bisect_right(LEVELS, shift)


def heat_css(scope: str = "") -> str:
    """The colours of the levels, over whatever lies behind."""
    return "\n".join(
        f"{scope} .l{n} {{ background-color: color-mix(in srgb, var(--heat) {11 * n}%, transparent); }}"
        for n in range(1, len(LEVELS) + 1)
    ).strip()


def legend() -> str:
    """What the colours mean."""
    edges = [f"below {LEVELS[0]:g}", *(f"from {edge:g}" for edge in LEVELS)]
    swatches = "".join(f'<li><span class="swatch l{n}"></span>{edge}</li>' for n, edge in enumerate(edges))
    return f'<ul class="legend"><li>moved, in nats:</li>{swatches}</ul>'


def piece_html(piece: Piece) -> str:
    """The piece, its markers set apart."""
    return "".join(f"<i>{escape(part.text)}</i>" if part.marker else escape(part.text) for part in piece.parts)


def token_tabs(positions: Sequence[Position], pieces: Sequence[Pieces]) -> str:
    """The completion as a list of tabs, each of which opens the panel of its position."""
    parts = []
    for n, (position, names) in enumerate(zip(positions, pieces, strict=True)):
        piece, first = names[position.chosen.token], n == 0
        flip = f'<span class="flip" aria-hidden="true">{FLIP}</span>' if position.flipped else ""
        parts.append(
            f'<button type="button" role="tab" id="token-{n}" aria-controls="panel-{n}" '
            f'aria-selected="{str(first).lower()}" tabindex="{0 if first else -1}" '
            f'aria-label="{escape(_label(position, names))}" '
            f'class="token l{level(position.shift)}{" flipped" if position.flipped else ""}">'
            f"{flip}{piece_html(piece)}</button>" + ("<br>" if piece.text.endswith("\n") else "")
        )
    return "".join(parts)


def panel(number: int, position: Position, names: Pieces, *, masked: bool) -> str:
    """Everything about one position."""
    chosen = position.chosen
    heading = f"Token {number + 1}: <span class=tok>{piece_html(names[chosen.token])}</span>"
    verdict = (
        f'<p class="verdict"><span class="flip" aria-hidden="true">{FLIP}</span> flipped: the tuned model would '
        f"put <span class=tok>{piece_html(names[position.first.tuned])}</span> first, steering puts "
        f"<span class=tok>{piece_html(names[position.first.steered])}</span></p>"
        if position.flipped
        else ""
    )
    size = (
        f"{_tokens(position.mask_size)}; this one {_where(chosen)}" if masked else "none: every token is steered"
    )
    alone = [("by the mask alone", f"{number_text(position.mask_shift)} nats")] if masked else []
    numbers = (
        ("moved, KL(steered‖tuned)", f"{number_text(position.shift)} nats"),
        *alone,
        ("KL(p‖q), tuned from base", f"{number_text(position.divergence)} nats"),
        ("mask", size),
    )
    entries = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in numbers)
    return (
        f'<section role="tabpanel" id="panel-{number}" aria-labelledby="token-{number}" tabindex="0">'
        f"<h3>{heading}</h3>{verdict}<dl>{entries}</dl>{_candidates(position, names, masked=masked)}</section>"
    )


def positions_table(positions: Sequence[Position], pieces: Sequence[Pieces], *, masked: bool, caption: str) -> str:
    """One row per position."""
    heads = ["", "token", "moved", "tuned first", "p base", "p tuned", "p steered", "KL(p‖q)", "entropy"]
    rows = []
    for n, (position, names) in enumerate(zip(positions, pieces, strict=True)):
        chosen = position.chosen
        other = f"{FLIP} {piece_html(names[position.first.tuned])}" if position.flipped else ""
        cells = [
            f"<td>{n + 1}</td>",
            f'<th scope="row" class="tok l{level(position.shift)}">{piece_html(names[chosen.token])}</th>',
            f"<td>{number_text(position.shift)}</td>",
            f'<td class="tok">{other}</td>',
            *(f"<td>{number_text(value)}</td>" for value in chosen.probability),
            f"<td>{number_text(position.divergence)}</td>",
            f"<td>{number_text(position.entropy.tuned)}</td>",
        ]
        if masked:
            cells.append(f"<td>{_where(chosen)}, {position.mask_size}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(f'<th scope="col">{name}</th>' for name in [*heads, *(["mask"] if masked else [])])
    return (
        f'<table class="positions"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def notebook_table(positions: Sequence[Position], pieces: Sequence[Pieces], *, masked: bool, caption: str) -> str:
    """The table for a notebook's cell: no script, and styles that touch nothing else."""
    style = (
        ".svd-inspection { --heat: #e8741e; overflow-x: auto; }\n"
        ".svd-inspection caption { text-align: left; }\n"
        ".svd-inspection .tok { font-family: monospace; text-align: left; white-space: pre; }\n"
        ".svd-inspection i { opacity: .6; font-style: normal; }\n" + heat_css(".svd-inspection")
    )
    table = positions_table(positions, pieces, masked=masked, caption=caption)
    return f'<div class="svd-inspection"><style>{style}</style>{table}</div>'


def number_text(value: float) -> str:
    """Three decimals; what is smaller with an exponent; an exact 0 without decimals.

    >>> number_text(0.25), number_text(0.00002), number_text(0.0)
    ('0.250', '2e-05', '0')
    """
    if value == 0.0:
        return "0"
    return f"{value:.3f}" if value >= 0.0005 else f"{value:.0e}"


def _candidates(position: Position, names: Pieces, *, masked: bool) -> str:
    """The candidates with their probabilities as numbers and bars."""
    rows = []
    for one in position.candidates:
        mine = one.token == position.chosen.token
        cells = [
            f'<th scope="row"><span class=tok>{piece_html(names[one.token])}</span>'
            + ('<span class="chosen">written</span>' if mine else "")
            + "</th>"
        ]
        for value, first in zip(one.probability, position.first, strict=True):
            text = number_text(value)
            text = f"<strong>{text}</strong>" if one.token == first else text
            cells.append(f'<td class="p" style="--p:{100 * value:.1f}%">{text}</td>')
        if masked:
            cells.append(f"<td>{'in' if one.confident else 'out'}</td>")
        rows.append(f"<tr{' class=mine' if mine else ''}>{''.join(cells)}</tr>")
    heads = ["token", "base", "tuned", "steered", *(["mask"] if masked else [])]
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    shared = {"entropy, nats": map(number_text, position.entropy), "its rank": position.rank}
    rest = "<td></td>" if masked else ""
    foot = "".join(
        f'<tr><th scope="row">{name}</th>{"".join(f"<td>{value}</td>" for value in values)}{rest}</tr>'
        for name, values in shared.items()
    )
    return (
        f'<table class="candidates"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody>'
        f"<tfoot>{foot}</tfoot></table>"
    )


def _tokens(count: int) -> str:
    return f"{count} token" if count == 1 else f"{count} tokens"


def _where(candidate: Candidate) -> str:
    return "inside" if candidate.confident else "outside"


def _label(position: Position, names: Pieces) -> str:
    """A token as a screen reader says it."""
    chosen = names[position.chosen.token]
    text = f"{chosen.text.strip() or chosen.shown}, moved {number_text(position.shift)} nats"
    return text + (f", flipped from {names[position.first.tuned].shown}" if position.flipped else "")
