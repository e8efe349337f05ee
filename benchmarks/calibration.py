"""What each rule and estimator is worth on held-out data.

    python benchmarks/calibration.py quality --task demo          # or truthfulqa, arc_easy
    python benchmarks/calibration.py contextual --task truthfulqa  # or arc_easy, demo

`quality` warm-starts LoRA for 60 steps and for whole epochs, calibrates, and scores every candidate on the test
split. `contextual` compares strengths that depend on the position with constant ones, for several prices on them.
"""

import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from jsonargparse import auto_cli
from peft import LoraConfig
from quiet import quiet_trainer
from rich.console import Console
from rich.table import Table

from svd_lightning import SteeredLanguageModel, SteeringCalibration
from svd_lightning.calibration import PAPER_ALPHAS, outcome
from svd_lightning.calibration.cross_fit import cross_fit, fit_each
from svd_lightning.calibration.split import CalibrationSplit
from svd_lightning.commands.demo import BASE_FOLDER, diaries
from svd_lightning.data import CompletionDataModule, JSONLData, TruthfulQA
from svd_lightning.data.questions import EncodedQuestion
from svd_lightning.metrics import paired_gain
from svd_lightning.models import Backbone
from svd_lightning.objective import MaskedObjective, ReferenceSnapshot, TokenTable
from svd_lightning.report.words import gain_text
from svd_lightning.scoring import collector
from svd_lightning.steering import (
    Agreement,
    Divergence,
    Entropy,
    KLGradient,
    NaturalGradient,
    Steering,
    TaskAware,
    Temperature,
    expand,
    rule_name,
)
from svd_lightning.strength import LineSearch

SHARED = Path(__file__).parents[2] / "shared"
Task = Literal["demo", "truthfulqa", "arc_easy"]
JOINT = (KLGradient(), NaturalGradient(), Temperature())
FEATURES = (Entropy(), Divergence(), Agreement())
PRICES = {"free": 0.0, "0.01": 0.01, "1": 1.0, "chosen": None}


def quality(*, task: Task = "demo", epochs: int = 2, seed: int = 0) -> None:
    """Held-out NLL and accuracy of every candidate, for a short and a long warm start.

    Args:
        task: which data.
        epochs: length of the long warm start; the short one is 60 steps.
        seed: of the adapter and the order of training.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, limits in (("60 steps", {"max_steps": 60}), (f"{epochs} epochs", {"max_epochs": epochs})):
            L.seed_everything(seed, verbose=False)
            module, data = small_model(task), _data(task, Path(folder) / f"{name} data")
            callback = SteeringCalibration(estimator=LineSearch(), show_table=False)
            trainer = quiet_trainer(Path(folder) / name, callback, **limits)
            trainer.fit(module, datamodule=data)
            trainer.test(module, datamodule=data, verbose=False)
            _show(f"{task}, {name}", module.calibration or {}, module.test_results.table or {})


def contextual(*, task: Task = "truthfulqa", epochs: int = 2, seed: int = 0) -> None:
    """Held-out NLL with strengths that depend on entropy, divergence and agreement, over constant strengths.

    Args:
        task: which data.
        epochs: length of the long warm start; the short one is 60 steps.
        seed: of the adapter and the order of training.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, limits in (("60 steps", {"max_steps": 60}), (f"{epochs} epochs", {"max_epochs": epochs})):
            L.seed_everything(seed, verbose=False)
            module, data = small_model(task, joint=True), _data(task, Path(folder) / f"{name} data")
            trainer = quiet_trainer(Path(folder) / name, **limits)
            trainer.fit(module, datamodule=data)
            module.eval().configured = replace(module.configured, features=FEATURES)
            splits = {"calibration": data.calibration_dataloader(), "test": data.test_dataloader()}
            tables = [
                fill(module.peft_model, module.configured, loader, ReferenceSnapshot(), data.all_choices(split))
                for split, loader in splits.items()
            ]
            _show_contextual(f"{task}, {name}", module.configured, *tables)


def _show_contextual(title: str, recipe: Steering, here: TokenTable, there: TokenTable) -> None:
    """One row per set of rules and price; the gains are of the contextual over the constant strengths."""
    here, there = here.narrow(0.1), there.narrow(0.1)
    table = Table(title=f"{title}: {here.num_tokens} calibration tokens, {there.num_tokens} test tokens")
    for name in (
        "rules",
        "ρ",
        "calibration NLL",
        "cross-fitted gain, 95 %",
        "test NLL",
        "test gain, 95 %",
        "acc.",
    ):
        table.add_column(name, no_wrap="gain" in name)
    for rules in (*([rule] for rule in recipe.rules), recipe.rules):
        plain: dict[str, Any] = {}
        for name, ridge in {"constant": 0.0, **PRICES}.items():
            directions = rules if name == "constant" else expand(rules, FEATURES)
            estimator = LineSearch(ridge=ridge)
            [found] = fit_each([(estimator, MaskedObjective(here, directions, penalty=0.0))])
            split = CalibrationSplit(here)
            [scores] = split.scores([directions], cross_fit(split.example, [found], folds=4))
            held_out = scores.fitted
            test = MaskedObjective(there, directions, penalty=0.0).label_log_probs(found.point)
            strengths = found.estimate.strengths
            fit, unseen = (outcome(tokens, directions, strengths, penalty=0.0) for tokens in (here, there))
            plain = plain or {"held_out": held_out, "test": test}
            table.add_row(
                " + ".join(map(rule_name, rules)) if name == "constant" else "",
                name,
                f"{fit.nll:.4f}",
                _gain(name, held_out, plain["held_out"], here),
                f"{unseen.nll:.4f}",
                _gain(name, test, plain["test"], there),
                f"{unseen.accuracy:.1%}",
            )
    Console(width=150).print(table)


def _gain(name: str, better: torch.Tensor, worse: torch.Tensor, tokens: TokenTable) -> str:
    return "" if name == "constant" else gain_text(asdict(paired_gain(better, worse, tokens.example)))


def fill(
    model: Any,
    recipe: Steering,
    batches: Iterable[dict[str, Any]],
    snapshot: ReferenceSnapshot,
    questions: Sequence[EncodedQuestion] = (),
) -> Any:
    """Return the table of the batches, of questions where they are of such."""
    collecting = collector(model, recipe, snapshot, alphas=PAPER_ALPHAS, questions=questions)
    with torch.no_grad():
        for batch in batches:
            collecting.add(batch)
    return collecting.result()


def small_model(task: Task, *, joint: bool = False) -> SteeredLanguageModel:
    rules = JOINT if joint else (KLGradient(), NaturalGradient(), TaskAware())
    base, rate = (BASE_FOLDER, 5e-4) if task == "demo" else (SHARED / "models/wiki-tiny", 1e-3)
    return SteeredLanguageModel(
        Backbone(name_or_path=str(base)),
        LoraConfig(r=8, lora_alpha=16, lora_dropout=0.1, target_modules=["q_proj", "v_proj"]),
        # nothing forbidden: every label counts, and all rows are NLLs of the same tokens
        steering=Steering(rules, alpha=0.1, penalty=0.0),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=rate),
    )


def _data(task: Task, folder: Path) -> CompletionDataModule:
    if task == "demo":
        return diaries(folder, examples=1600, seed=0)
    if task == "truthfulqa":
        return TruthfulQA(path=str(SHARED / "data/TruthfulQA.csv"), calibration=200, batch_size=8)
    folder.mkdir(parents=True)
    paths = {split: _arc(split, folder) for split in ("train", "test")}
    return JSONLData(
        path=paths["train"],
        test_path=paths["test"],
        calibration=400,
        validation=None,
        batch_size=8,
        max_length=384,
    )


def _arc(split: str, folder: Path) -> str:
    rows = json.loads((SHARED / f"data/commonsense/ARC-Easy.{split}.json").read_text(encoding="utf-8"))
    path = folder / f"{split}.jsonl"
    lines = [{"prompt": row["instruction"] + "\n\n", "completion": row["output"]} for row in rows[:2000]]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


def _show(title: str, found: dict[str, Any], test: dict[str, Any]) -> None:
    table = Table(title=title, title_justify="left")
    for name in (
        "distribution",
        "estimator",
        "strength μ",
        "calibration NLL",
        "gain, 95 %",
        "test NLL",
        "test acc.",
    ):
        table.add_column(name, no_wrap=name == "gain, 95 %")
    table.add_row("base", "", "", f"{found['nll_base']:.4f}", "", f"{test['nll_base']:.4f}", "")
    tuned = (f"{found['nll_tuned']:.4f}", "", f"{test['nll_tuned']:.4f}", f"{test['accuracy_tuned']:.1%}")
    table.add_row("tuned", "", "0", *tuned)
    for here, there in zip(found["candidates"], test["candidates"], strict=True):
        strengths = ", ".join(f"{strength:.3g}" for strength in here["strengths"])
        numbers = (
            f"{here['nll']:.4f}",
            gain_text(here["gain"]),
            f"{there['nll']:.4f}",
            f"{there['accuracy']:.1%}",
        )
        table.add_row(" + ".join(here["rules"]), here["estimator"], strengths, *numbers)
    console = Console(width=150)
    console.print(table)
    console.print(
        f"{found['tokens']} calibration tokens, {test['tokens']} test tokens. Guard: {found['message']}."
    )
    used = found["used"]
    told = f"{' + '.join(used['rules'])} at {used['strengths']}"
    console.print(f"In use: {told}; test NLL {test['nll_steered']:.4f}, tuned {test['nll_tuned']:.4f}\n")


if __name__ == "__main__":
    auto_cli([quality, contextual])
