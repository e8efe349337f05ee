"""What each candidate gains over the tuned model on the test split, with its interval.

    python docs/figures/evidence.py RESULTS_FOLDER

Reads the cells that `benchmarks/evidence.py` wrote for seed 0, and draws beside this file, each for light and dark
pages: candidates (likelihood of TruthfulQA's answers with LoRA, by how far the warm start came), metrics (each
task's own metric with LoRA, warm starts half way), and adapters (likelihood of TruthfulQA's answers half way).
"""

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pair import save_pair

from svd_lightning.report.canvas import BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, TEAL

HERE = Path(__file__).parent
CANDIDATES = {
    "control": ("temperature", MUTED),
    "paper": ("the paper's mean", PURPLE),
    "chosen": ("KLGradient, line search", ORANGE),
    "joint": ("all rules jointly", ORANGE),
    "AdapterScale": ("adapter scale", TEAL),
    "Prior": ("prior", BLUE),
    "LabelBias": ("label bias", BLUE),
    "CalibratedHead": ("calibrated head", GREEN),
    "train on 1": ("train on, 1 epoch", INK),
    "train on 2": ("train on, 2 epochs", INK),
}
"""Name in the results → label and colour."""

RIVALS = {name: CANDIDATES[name] for name in ("joint", "train on 1", "train on 2")} | {"steered": ("auto", GREEN)}
NAMES = {"rouge_l": "ROUGE-L", "exact_match": "exact match"}
WARM_STARTS = ("barely begun", "half way", "hot")
ADAPTERS = {"lora": "LoRA", "ia3": "IA3", "prompt": "Prompt Tuning", "p-tuning-v2": "P-Tuning v2"}
WIDEST = 4
"""Panels in a row."""


def read(folder: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Return the cells by task, adapter and warm start."""
    cells = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*-0.json")))
    return {(cell["task"], cell["adapter"], cell["warm"]): cell for cell in cells}


def gains(axes: Axes, entries: dict[str, Any], shown: dict[str, tuple[str, str]], *, scale: float) -> None:
    """Draw one gain with its interval per row, the first at the top."""
    for place, (name, (_, colour)) in enumerate(shown.items()):
        if name in entries and entries[name].get("low") is not None:
            mean, low, high = (scale * entries[name][key] for key in ("gain", "low", "high"))
            axes.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="o", color=colour, capsize=3)
    axes.axvline(0.0, color=MUTED, linewidth=1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelcolor=INK)


def panels(
    cells: dict[str, dict[str, Any]], shown: dict[str, tuple[str, str]], *, scale: float, unit: str
) -> Figure:
    """Draw a panel for each title's entries."""
    columns = min(len(cells), WIDEST)
    rows = -(-len(cells) // columns)
    size = 2.2 + 2.2 * columns, 0.5 + rows * (0.6 + 0.26 * len(shown))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes, (title, entries) in zip(grid.flat, cells.items(), strict=False):
        gains(axes, entries, shown, scale=scale)
        axes.set_title(title, color=INK, loc="left", fontsize=10)
    for axes in grid.flat[len(cells) :]:
        axes.set_axis_off()
    grid[0, 0].set_yticks(range(len(shown)), [label for label, _ in shown.values()])
    grid[0, 0].invert_yaxis()
    figure.supxlabel(f"gain over the tuned model on the test split, {unit}", color=INK, fontsize=10)
    return figure


def main() -> None:
    """Write the figures."""
    cells = read(Path(sys.argv[1]))

    def answers(adapter: str, warm: str) -> Any:
        return cells["truthfulqa", adapter, warm]["results"]["metrics"]["NLL"]

    by_start = {warm: answers("lora", warm) for warm in WARM_STARTS if ("truthfulqa", "lora", warm) in cells}
    save_pair(panels(by_start, CANDIDATES, scale=1.0, unit="nats per token"), HERE, "candidates")
    families = {
        label: answers(name, "half way")
        for name, label in ADAPTERS.items()
        if ("truthfulqa", name, "half way") in cells
    }
    save_pair(panels(families, CANDIDATES, scale=1.0, unit="nats per token"), HERE, "adapters")
    own = {}
    for (task, adapter, warm), cell in cells.items():
        if (adapter, warm) == ("lora", "half way"):
            name = cell["metric"]
            entries = cell["results"]["metrics"].get(name) or cell["decoded"]["greedy"][name]
            own[f"{task}\n{NAMES.get(name, name)}".replace("_", " ")] = entries
    save_pair(panels(own, RIVALS, scale=100.0, unit="percentage points"), HERE, "metrics")


if __name__ == "__main__":
    main()
