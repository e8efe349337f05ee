"""The README's figure, from the demo, for light and dark pages: python docs/figures/front.py [folder].

Left, the calibration objective of the paper's rule with two of its estimators; right, how near each distribution
comes to the demo's known truth on held-out diaries.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import lightning as L
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pair import save_pair

from svd_lightning import SteeredLanguageModel
from svd_lightning.callbacks import SteeringCalibration
from svd_lightning.commands.demo import diaries, diary_model
from svd_lightning.commands.demo.task import TASK
from svd_lightning.commands.demo.truth import nearness
from svd_lightning.data import JSONLData
from svd_lightning.objective import MaskedObjective
from svd_lightning.report.canvas import BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, TEAL
from svd_lightning.scoring import collector
from svd_lightning.steering import KLGradient, Steering, with_built_in
from svd_lightning.trainer import SteeringTrainer

BARS = {
    "tuned": ([], "", BLUE),
    "sharpened": (["Temperature"], "LineSearch", MUTED),
    "the paper's mean": (["KLGradient"], "Mean", PURPLE),
    "line search": (["KLGradient"], "LineSearch", ORANGE),
    "natural gradient": (["NaturalGradient"], "LineSearch", GREEN),
    "three rules jointly": (["KLGradient", "NaturalGradient", "Temperature"], "LineSearch", TEAL),
}
"""Name → rules, estimator, colour."""


def front(folder: Path) -> Figure:
    """Run the demo's chain with its own options, and draw what came out."""
    L.seed_everything(0, verbose=False)
    data = diaries(folder, examples=640, seed=0)
    module = diary_model(learning_rate=5e-4)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    calibration = SteeringCalibration(show_table=False)
    trainer = SteeringTrainer(
        max_epochs=1, accelerator="cpu", callbacks=[calibration], enable_checkpointing=False, **quiet
    )
    trainer.fit(module, datamodule=data)
    module.eval()
    strengths = {(tuple(c["rules"]), c["estimator"]): c["strengths"] for c in module.calibration["candidates"]}
    figure = Figure(figsize=(9, 3.3), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
    _curve(left, _objective(module, data), strengths)
    _bars(right, _distances(module, data, strengths))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(MUTED)
        axes.tick_params(colors=MUTED, labelcolor=INK)
    return figure


@torch.no_grad()
def _objective(module: SteeredLanguageModel, data: JSONLData) -> MaskedObjective:
    collecting = collector(module.peft_model, module.configured)
    for batch in data.calibration_dataloader():
        collecting.add(batch)
    tokens = collecting.result().narrow(module.configured.alpha)
    return MaskedObjective(tokens, [KLGradient()], penalty=module.configured.penalty)


def _curve(axes: Axes, objective: MaskedObjective, strengths: dict) -> None:
    def nll(mu: float) -> float:
        return objective.evaluate(torch.tensor([mu], dtype=torch.float64)).nll

    [mean], [best] = (strengths[("KLGradient",), name] for name in ("Mean", "LineSearch"))
    grid = torch.linspace(-0.3 * best, 1.9 * best, 121, dtype=torch.float64).tolist()
    axes.plot(grid, [nll(mu) for mu in grid], color=BLUE, linewidth=2)
    marks = {
        "tuned": (0.0, "o", BLUE),
        "the paper's mean": (mean, "s", PURPLE),
        "line search": (best, "*", ORANGE),
    }
    for name, (mu, marker, colour) in marks.items():
        axes.plot(mu, nll(mu), marker, color=colour, markersize=15 if marker == "*" else 8, zorder=3)
        place = (0, 14) if marker == "*" else (9, 4)
        centred = "center" if marker == "*" else "left"
        axes.annotate(name, (mu, nll(mu)), place, textcoords="offset points", color=INK, ha=centred)
    axes.set_xlabel("strength μ (0: the tuned model)", color=INK)
    axes.set_ylabel("NLL of the labels, nats per token", color=INK)
    axes.set_title("How far to go is calibrated", color=INK, loc="left", fontsize=11)


def _distances(module: SteeredLanguageModel, data: JSONLData, strengths: dict) -> dict[str, float]:
    """KL(truth ‖ model) of the base and of each bar, nats per token."""
    known = {type(rule).__name__: rule for rule in with_built_in(module.steering.rules)}
    recipes = {"base": lambda tuned, base: base, "tuned": lambda tuned, base: tuned}
    for name, (rules, estimator, _) in BARS.items():
        if rules:
            chosen = [known[rule] for rule in rules]
            recipes[name] = Steering(chosen, strengths[tuple(rules), estimator], alpha=0.1, penalty=0.0)
    found = nearness(module.peft_model, data.test_dataloader(), TASK, recipes)
    return {name: near.kl for name, near in found.items()}


def _bars(axes: Axes, distances: dict[str, float]) -> None:
    names = list(distances)
    colours = [MUTED, *(colour for _, _, colour in BARS.values())]
    bars = axes.barh(names, list(distances.values()), color=colours)
    axes.bar_label(bars, fmt="%.3f", padding=4, color=INK)
    axes.set_xlim(right=1.15 * max(distances.values()))
    axes.invert_yaxis()
    axes.set_xlabel("KL to the true distribution, nats per token", color=INK)
    axes.set_title("Held out: steering comes nearer to the truth", color=INK, loc="left", fontsize=11)


def main() -> None:
    """Write front-light.svg and front-dark.svg, beside this file or into the folder."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    with TemporaryDirectory() as folder:
        save_pair(front(Path(folder)), target, "front")


if __name__ == "__main__":
    main()
