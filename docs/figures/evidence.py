"""What each candidate gains over the tuned model on the test split, with its interval.

    python docs/figures/evidence.py

Draws beside this file, for light and dark pages: cells (each cell's own metric, LoRA), candidates (likelihood of
TruthfulQA's answers with LoRA, by how far the warm start came) and adapters (the same half way, by kind of
adapter), and writes the table of `docs/evidence.md`. Prints every candidate's mean gain in the tasks' own metrics
over all cells that were trained, and what `auto` gains beyond it there: `auto` beside the candidate that one would
take in hindsight. Intervals are a bootstrap over cells. Figures and means are of seed 0.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from cells import ADAPTERS, MODELS, TASKS, Cell, Gains, cells, in_order
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pair import save_pair
from table import with_table

from svd_lightning.metrics import Gain, paired_gain
from svd_lightning.report.canvas import BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, TEAL

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "benchmarks" / "RESULTS.md"
PAGE = HERE.parent / "evidence.md"
COLOURS = {
    "temperature": MUTED,
    "the paper's mean": PURPLE,
    "KLGradient, line search": ORANGE,
    "all rules jointly": ORANGE,
    "adapter scale": TEAL,
    "prior": BLUE,
    "label bias": BLUE,
    "calibrated head": GREEN,
    "train on, 1 epoch": INK,
    "train on, 2 epochs": INK,
    "auto": GREEN,
}
CANDIDATES = tuple(COLOURS)[:-1]
RIVALS = {"auto": "o", "train on, 2 epochs": "s", "all rules jointly": "^"}
"""Rows of the figure of all cells, and their markers."""


def in_hindsight(found: Sequence[Cell]) -> dict[str, tuple[Gain, Gain]]:
    """Return each candidate's mean gain in the tasks' own metrics, in points, and what auto gains beyond it."""
    trained = [cell.own for cell in found if cell.warm != "none"]
    means = {}
    for name in COLOURS:
        own, auto = torch.tensor([(one[name][0], one["auto"][0]) for one in trained if name in one]).double().T
        every = torch.arange(len(own))
        means[name] = paired_gain(own, torch.zeros_like(own), every), paired_gain(auto, own, every)
    return means


def one(axes: Axes, gain: tuple[float, float, float], place: float, name: str, marker: str) -> None:
    """Draw one gain with its interval."""
    mean, low, high = gain
    axes.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt=marker, color=COLOURS[name], capsize=2)


def bare(axes: Axes) -> None:
    """Draw no gain as a line, and little else beside the data."""
    axes.axvline(0.0, color=MUTED, linewidth=1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelcolor=INK)


def all_cells(found: Sequence[Cell]) -> None:
    """Write a figure with a row for each task and start, a panel for each model and a marker for each rival."""
    found = [cell for cell in found if cell.adapter == "lora" and cell.warm != "none"]
    found.sort(key=lambda cell: in_order(cell)[1:])  # by task, whichever the model
    rows = list(dict.fromkeys((TASKS[cell.task], cell.warm) for cell in found))
    figure = Figure(figsize=(9.0, 1.0 + 0.42 * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(MODELS), sharex=True, sharey=True)
    for axes, model in zip(panels, MODELS, strict=True):
        for cell in found:
            if cell.model == model:
                place = rows.index((TASKS[cell.task], cell.warm))
                for shift, (name, marker) in enumerate(RIVALS.items()):
                    one(axes, cell.own[name], place + 0.25 * (shift - 1), name, marker)
        bare(axes)
        axes.set_title(model, color=INK, loc="left", fontsize=10)
    panels[0].set_yticks(range(len(rows)), [", ".join(row) for row in rows])
    panels[0].invert_yaxis()
    handles = [Line2D([], [], linewidth=0, marker=marker, color=COLOURS[name]) for name, marker in RIVALS.items()]
    figure.legend(handles, RIVALS, loc="outside upper right", ncols=len(RIVALS), frameon=False, labelcolor=INK)
    figure.supxlabel("gain over the tuned model on the test split, percentage points", color=INK, fontsize=10)
    save_pair(figure, HERE, "cells")


def by_candidate(found: dict[str, Gains], name: str) -> None:
    """Write a figure with a row for each candidate and a panel for each title."""
    figure = Figure(figsize=(2.2 + 2.2 * len(found), 1.1 + 0.26 * len(CANDIDATES)), layout="constrained")
    grid = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, (title, each) in zip(grid, found.items(), strict=True):
        for place, candidate in enumerate(CANDIDATES):
            if candidate in each:
                one(axes, each[candidate], place, candidate, "o")
        bare(axes)
        axes.set_title(title, color=INK, loc="left", fontsize=10)
    grid[0].set_yticks(range(len(CANDIDATES)), CANDIDATES)
    grid[0].invert_yaxis()
    figure.supxlabel("gain over the tuned model on the test split, nats per token", color=INK, fontsize=10)
    save_pair(figure, HERE, name)


def main() -> None:
    """Write figures and table, and print the means."""
    every = sorted(cells(RESULTS.read_text(encoding="utf-8")), key=in_order)
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), every), encoding="utf-8")
    found = [cell for cell in every if cell.seed == 0]
    for name, gains in sorted(in_hindsight(found).items(), key=lambda item: -item[1][0].mean):
        texts = (f"{gain.mean:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}]" for gain in gains)
        print("{}: {} points; auto {} more".format(name, *texts))
    print(f"{sum(cell.warm != 'none' for cell in found)} trained cells of seed 0, {len(every)} of all seeds")
    answers = [cell for cell in found if (cell.model, cell.task) == (MODELS[0], "truthfulqa")]
    lora = {cell.warm: cell.columns["NLL"] for cell in answers if cell.adapter == "lora" and cell.warm != "none"}
    half = {ADAPTERS[cell.adapter]: cell.columns["NLL"] for cell in answers if cell.warm == "half way"}
    all_cells(found)
    by_candidate(lora, "candidates")
    by_candidate(half, "adapters")


if __name__ == "__main__":
    main()
