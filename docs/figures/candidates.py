"""What each candidate gains over the tuned model on the test split, by how far the warm start came.

    python docs/figures/candidates.py RESULTS_FOLDER [TASK]

Reads the cells that `benchmarks/candidates.py` wrote, and draws candidates-light.svg and candidates-dark.svg
beside this file.
"""

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure
from pair import save_pair

from svd_lightning.report.canvas import BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, TEAL

HERE = Path(__file__).parent
SHOWN = {
    "control": ("temperature", MUTED),
    "paper": ("the paper's mean", PURPLE),
    "chosen": ("KLGradient, line search", ORANGE),
    "joint": ("all rules jointly", TEAL),
    "Prior": ("prior", BLUE),
    "LabelBias": ("label bias", GREEN),
    "CalibratedHead": ("calibrated head", INK),
}
"""Name in the results → label and colour."""
WARM_STARTS = {15: "barely begun", 60: "half way", 120: "hot"}


def gains(cell: dict) -> dict[str, tuple[float, float, float]]:
    """Return mean and ends of the interval of each shown candidate's gain, nats per token."""
    nll = cell["metrics"]["metrics"]["NLL"]
    return {name: (nll[name]["gain"], nll[name]["low"], nll[name]["high"]) for name in SHOWN if name in nll}


def draw(cells: dict[int, dict]) -> Figure:
    """Draw a panel for each warm start: gains with their intervals."""
    figure = Figure(figsize=(9, 2.9), layout="constrained")
    panels = figure.subplots(1, len(cells), sharey=True)
    for axes, (steps, cell) in zip(panels, cells.items(), strict=True):
        for place, (name, (mean, low, high)) in enumerate(gains(cell).items()):
            colour = SHOWN[name][1]
            axes.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="o", color=colour, capsize=3)
        axes.axvline(0.0, color=MUTED, linewidth=1)
        axes.set_title(f"{WARM_STARTS[steps]} ({steps} steps)", color=INK, loc="left", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(MUTED)
        axes.tick_params(colors=MUTED, labelcolor=INK)
    panels[0].set_yticks(range(len(SHOWN)), [label for label, _ in SHOWN.values()])
    panels[0].invert_yaxis()
    figure.supxlabel("gain over the tuned model on the test split, nats per token", color=INK, fontsize=10)
    return figure


def main() -> None:
    """Write both files."""
    folder, task = Path(sys.argv[1]), (sys.argv[2:] or ["truthfulqa"])[0]
    cells = {
        steps: json.loads((folder / f"{task}-{steps}.json").read_text(encoding="utf-8")) for steps in WARM_STARTS
    }
    save_pair(draw(cells), HERE, "candidates")


if __name__ == "__main__":
    main()
