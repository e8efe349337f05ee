"""What each candidate gains over the tuned model on the test split, with its interval.

    python docs/figures/evidence.py

Reads the cells of seed 0 under "Evidence" in `benchmarks/RESULTS.md`, as `benchmarks/evidence_tables.py` prints
them, and draws beside this file, for light and dark pages: candidates (likelihood of TruthfulQA's answers with
LoRA, by how far the warm start came), adapters (the same half way, by kind of adapter), and metrics (each task's
own metric with LoRA, half way). Prints every candidate's mean gain in the tasks' own metrics over all cells that
were trained, and what `auto` gains beyond it there: `auto` beside the candidate that one would take in hindsight.
Intervals are a bootstrap over cells. Cells in file order are left out.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pair import save_pair

from svd_lightning.metrics import Gain, paired_gain
from svd_lightning.report.canvas import BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, TEAL

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "benchmarks" / "RESULTS.md"
TITLE = re.compile(r"\*\*(.+), (.+), (.+), (.+), seed 0(?:, bfloat16)?\*\*: ")
GAIN = re.compile(r"\(([-+.\d]+) \[([-+.\d]+), ([-+.\d]+)\]\)")
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
RIVALS = ("all rules jointly", "train on, 1 epoch", "train on, 2 epochs", "auto")
WARM_STARTS = ("barely begun", "half way", "hot")
ADAPTERS = {"lora": "LoRA", "ia3": "IA3", "prompt": "Prompt Tuning", "p-tuning-v2": "P-Tuning v2"}
WIDEST = 4
"""Panels in a row."""

Gains = dict[str, tuple[float, float, float]]
"""Row of a table → gain, low, high."""


class Cell(NamedTuple):
    """One table."""

    model: str
    task: str
    adapter: str
    warm: str
    columns: dict[str, Gains]

    @property
    def metric(self) -> str:
        """The column of the task's own metric."""
        free = "ROUGE-L, greedy" if self.task == "truthfulqa" else "exact match, greedy"
        return "MC1" if "MC1" in self.columns else free


def read(text: str) -> Iterator[Cell]:
    """Yield the cells, from title to the end of the table."""
    for block in re.split(r"\n(?=\*\*)", text):
        if (title := TITLE.match(block)) and "file order" not in title[0]:
            head, _, *rows = (line.split(" | ") for line in block.split("\n\n")[1].splitlines())
            names = [name.strip(" |") for name in head]
            columns: dict[str, Gains] = {name: {} for name in names[1:]}
            for label, *values in rows:
                label = "auto" if "auto" in label else label.strip(" |")
                for name, value in zip(names[1:], values, strict=False):
                    if found := GAIN.search(value):
                        columns[name][label] = tuple(map(float, found.groups()))
            yield Cell(*title.groups(), columns)


def in_hindsight(cells: Sequence[Cell]) -> dict[str, tuple[Gain, Gain]]:
    """Return each candidate's mean gain in the tasks' own metrics, in points, and what auto gains beyond it."""
    found = [cell.columns[cell.metric] for cell in cells if cell.warm != "none"]
    means = {}
    for name in COLOURS:
        own, auto = torch.tensor([(one[name][0], one["auto"][0]) for one in found if name in one]).double().T
        every = torch.arange(len(own))
        means[name] = paired_gain(own, torch.zeros_like(own), every), paired_gain(auto, own, every)
    return means


def gains(axes: Axes, found: Gains, shown: tuple[str, ...]) -> None:
    """Draw one gain with its interval per row, the first at the top."""
    for place, name in enumerate(shown):
        if name in found:
            mean, low, high = found[name]
            axes.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="o", color=COLOURS[name], capsize=3)
    axes.axvline(0.0, color=MUTED, linewidth=1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelcolor=INK)


def panels(found: dict[str, Gains], shown: tuple[str, ...], name: str, *, unit: str, sharex: bool = False) -> None:
    """Write a figure with a panel for each title."""
    columns = min(len(found), WIDEST)
    rows = -(-len(found) // columns)
    size = 2.2 + 2.2 * columns, 0.4 + rows * (0.7 + 0.26 * len(shown))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, sharex=sharex, sharey=True, squeeze=False)
    for axes, (title, each) in zip(grid.flat, found.items(), strict=False):
        gains(axes, each, shown)
        axes.set_title(title, color=INK, loc="left", fontsize=10)
    for place in range(len(found), grid.size):
        grid.flat[place].set_axis_off()
        grid.flat[place - columns].tick_params(labelbottom=True)  # the lowest panel of its column
    grid[0, 0].set_yticks(range(len(shown)), shown)
    grid[0, 0].invert_yaxis()
    figure.supxlabel(f"gain over the tuned model on the test split, {unit}", color=INK, fontsize=10)
    save_pair(figure, HERE, name)


def main() -> None:
    """Write the figures, and print the means."""
    cells = list(read(RESULTS.read_text(encoding="utf-8")))
    for name, found in sorted(in_hindsight(cells).items(), key=lambda item: -item[1][0].mean):
        texts = (f"{gain.mean:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}]" for gain in found)
        print("{}: {} points; auto {} more".format(name, *texts))
    print(f"{sum(cell.warm != 'none' for cell in cells)} trained cells of {len(cells)}")
    answers = [cell for cell in cells if cell.model.startswith("SmolLM2") and cell.task == "truthfulqa"]
    lora = {cell.warm: cell.columns["NLL"] for cell in answers if cell.adapter == "lora"}
    half = {cell.adapter: cell.columns["NLL"] for cell in answers if cell.warm == "half way"}
    by_start = {warm: lora[warm] for warm in WARM_STARTS}
    by_adapter = {label: half[name] for name, label in ADAPTERS.items() if name in half}
    own = {}
    for cell in sorted(cells, key=lambda cell: cell.model, reverse=True):
        if (cell.adapter, cell.warm) == ("lora", "half way"):
            title = f"{cell.model}\n{cell.task}\n{cell.metric}".replace("_", " ")
            own[title] = cell.columns[cell.metric]
    panels(by_start, CANDIDATES, "candidates", unit="nats per token")
    panels(by_adapter, CANDIDATES, "adapters", unit="nats per token")
    panels(own, RIVALS, "metrics", unit="percentage points", sharex=True)


if __name__ == "__main__":
    main()
