"""What each candidate gains over the tuned model on the test split, with its interval.

    python docs/figures/evidence.py RESULTS_FOLDER

Reads the cells that `benchmarks/evidence.py` wrote for LoRA and seed 0, and draws beside this file, each for light
and dark pages: candidates (likelihood of TruthfulQA's answers, by how far the warm start came), and metrics (each
task's own metric, warm starts half way).
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


def read(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the cells by task and warm start."""
    cells = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*-lora-*-0.json")))
    return {(cell["task"], cell["warm"]): cell for cell in cells}


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
    figure = Figure(figsize=(2.2 + 2.2 * len(cells), 1.1 + 0.26 * len(shown)), layout="constrained")
    row = figure.subplots(1, len(cells), sharey=True, squeeze=False)[0]
    for axes, (title, entries) in zip(row, cells.items(), strict=True):
        gains(axes, entries, shown, scale=scale)
        axes.set_title(title, color=INK, loc="left", fontsize=10)
    row[0].set_yticks(range(len(shown)), [label for label, _ in shown.values()])
    row[0].invert_yaxis()
    figure.supxlabel(f"gain over the tuned model on the test split, {unit}", color=INK, fontsize=10)
    return figure


def main() -> None:
    """Write both figures."""
    cells = read(Path(sys.argv[1]))
    answers = {
        warm: cells["truthfulqa", warm]["results"]["metrics"]["NLL"]
        for warm in WARM_STARTS
        if ("truthfulqa", warm) in cells
    }
    save_pair(panels(answers, CANDIDATES, scale=1.0, unit="nats per token"), HERE, "candidates")
    own = {}
    for (task, warm), cell in cells.items():
        if warm == "half way":
            name = cell["metric"]
            entries = cell["results"]["metrics"].get(name) or cell["decoded"]["greedy"][name]
            own[f"{task}\n{NAMES.get(name, name)}".replace("_", " ")] = entries
    save_pair(panels(own, RIVALS, scale=100.0, unit="percentage points"), HERE, "metrics")


if __name__ == "__main__":
    main()
