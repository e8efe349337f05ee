"""The table of `docs/evidence.md`: a row for each cell."""

import re
from collections.abc import Sequence

from cells import ADAPTERS, TASKS, Cell

_PLACE = re.compile(r"(?<=<!-- cells -->\n).*(?=<!-- end of cells -->)", re.DOTALL)


def with_table(page: str, found: Sequence[Cell]) -> str:
    """Return the page with these cells between its two marks."""
    return _PLACE.sub(table(found) + "\n", page)


def table(found: Sequence[Cell]) -> str:
    """Return a row for each cell: what auto chose, and gains with intervals; bold where they are sure."""
    heads = ("model", "task", "adapter, warm start", "tuned over base, nats", "`auto` chose", "`auto`, nats")
    heads += ("`auto`, points", "all rules jointly, points", "two more epochs, points")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for cell in found:
        nll, own = cell.columns["NLL"], cell.own
        mean, low, high = nll["base"]
        start = f"{ADAPTERS[cell.adapter]}, {cell.warm}" + f", seed {cell.seed}" * (cell.seed > 0)
        row = [f"{cell.model}{', bf16' * cell.bfloat16}", TASKS[cell.task], start]
        row.append(_gain((0.0 - mean, 0.0 - high, 0.0 - low), 2) if cell.warm != "none" else "")
        kept = cell.chosen == "tuned"
        row += [cell.chosen, *(("", "") if kept else (_gain(nll["auto"], 2), _gain(own["auto"], 1)))]
        row += [_gain(own[name], 1) if name in own else "" for name in ("all rules jointly", "train on, 2 epochs")]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def _gain(gain: tuple[float, float, float], digits: int) -> str:
    mean, low, high = (f"{each:+.{digits}f}" for each in gain)
    text = f"{mean} [{low}, {high}]"
    return f"**{text}**" if gain[1] > 0.0 or gain[2] < 0.0 else text
