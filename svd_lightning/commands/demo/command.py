"""`svd-lightning demo`: run everything on a small model in the package and a task whose truth is known."""

import json
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from peft import LoraConfig
from rich.table import Table

from svd_lightning.callbacks import PredictionWriter, SteeringCalibration
from svd_lightning.commands.demo.task import TASK
from svd_lightning.commands.demo.truth import Nearness, nearness
from svd_lightning.console import console
from svd_lightning.data import JSONLData
from svd_lightning.files import write_text
from svd_lightning.models import Backbone
from svd_lightning.module import SteeredLanguageModel
from svd_lightning.records import PredictionRecord
from svd_lightning.report import ReportTable, Row
from svd_lightning.runs import claim_folder
from svd_lightning.steering import (
    CORRECTIONS,
    UNSTEERED,
    Corrected,
    Steering,
    SteeringFunction,
    rule_name,
    with_built_in,
)
from svd_lightning.trainer import SteeringTrainer

BASE_FOLDER = Path(__file__).parent / "base"
"""The base model in the package; `python -m tests.commands.demo.build` makes it again."""

HELD_OUT = {"calibration": 200, "validation": 100, "test": 300, "predict": 20}
"""How many diaries each split has that is not trained on."""

_SHOWN = {
    ("Temperature", "LineSearch"): "sharpened (control)",
    ("KLGradient", "Mean"): "steered, the paper's mean",
    ("KLGradient", "LineSearch"): "steered, line search",
    ("NaturalGradient", "LineSearch"): "natural gradient, line search",
    ("KLGradient + NaturalGradient + Temperature", "LineSearch"): "three rules jointly, line search",
}
"""What the table calls each recipe."""


def demo(
    *, output: str = "runs/demo", examples: int = 640, epochs: int = 1, learning_rate: float = 5e-4, seed: int = 0
) -> Path:
    """Warm-start, calibrate and decode on a tiny model, and compare with the known truth.

    A tiny base model writes diaries. The task is the diaries of another century: the same prompts, other
    odds. The demo trains a LoRA adapter briefly, calibrates the strength, and shows how near each distribution
    comes to the true one on held-out diaries.

    Args:
        output: folder for runs; each run makes a new version in it.
        examples: number of diaries to train on.
        epochs: length of the warm start.
        learning_rate: of AdamW.
        seed: for the diaries, the adapter and the order of training.

    Returns:
        The folder of this run.
    """
    L.seed_everything(seed, verbose=False)
    logger = TensorBoardLogger(Path(output).parent, name=Path(output).name, default_hp_metric=False)
    claim_folder(logger)
    folder = Path(logger.log_dir)
    data = diaries(folder / "data", examples=examples, seed=seed)
    module = diary_model(learning_rate=learning_rate)
    trainer = SteeringTrainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=logger,
        log_every_n_steps=10,
        enable_model_summary=False,
        callbacks=[
            SteeringCalibration(show_table=False),
            PredictionWriter(compare=True),
            ModelCheckpoint(save_last=True),
            RichProgressBar(),
        ],
    )
    trainer.fit(module, datamodule=data)
    trainer.predict(module, datamodule=data, return_predictions=False)
    console().print(_table(*_compare(module, data)))
    console().print(_example(folder / "predictions.jsonl"))
    console().print(_next_steps(folder), soft_wrap=True, highlight=False)
    return folder


def diaries(folder: Path, *, examples: int, seed: int) -> JSONLData:
    """Write the task's diaries as JSONL files, and read them like any user's data."""
    counts = {"train": examples, **HELD_OUT}
    for place, (split, count) in enumerate(counts.items()):
        rows = TASK.sample(count, seed=len(counts) * seed + place, prefix=split)
        write_text(folder / f"{split}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return JSONLData(
        path=str(folder / "train.jsonl"),
        calibration_path=str(folder / "calibration.jsonl"),
        validation_path=str(folder / "validation.jsonl"),
        test_path=str(folder / "test.jsonl"),
        predict_path=str(folder / "predict.jsonl"),
        batch_size=16,
        eval_batch_size=50,
        max_length=64,
    )


def diary_model(*, learning_rate: float) -> SteeredLanguageModel:
    """Make the demo's base with a new LoRA adapter, steered as in the paper."""
    return SteeredLanguageModel(
        Backbone(name_or_path=str(BASE_FOLDER)),
        LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=learning_rate),
        generation={"max_new_tokens": 40},
    )


def _compare(module: SteeredLanguageModel, data: JSONLData) -> tuple[dict[str, Nearness], dict[str, str]]:
    """Compare every shown distribution with the truth on the test split. Returns strengths as text too."""
    rules = {rule_name(rule): rule for rule in with_built_in(module.steering.rules)}
    compared: dict[str, SteeringFunction] = dict(UNSTEERED)
    strengths = {"base": "", "tuned": "0"}
    assert module.calibration is not None
    for candidate in module.calibration["candidates"]:
        name = _SHOWN.get((" + ".join(candidate["rules"]), candidate["estimator"]))
        if name is not None:
            chosen = [rules[rule] for rule in candidate["rules"]]
            # a penalty of −∞ would forbid some true words: without a penalty all have a finite score
            compared[name] = Steering(chosen, candidate["strengths"], alpha=module.steering.alpha, penalty=0.0)
            strengths[name] = ", ".join(f"{strength:.2f}" for strength in candidate["strengths"])
    for correction in module.corrections.values():
        compared[correction.words] = Corrected.of(module.configured, correction)
        strengths[correction.words] = f"{len(correction.tokens)} tokens"
    module.eval()
    return nearness(module.peft_model, data.test_dataloader(), TASK, compared), strengths


def _table(results: dict[str, Nearness], strengths: dict[str, str]) -> ReportTable:
    heads = ("distribution", "strength μ", "NLL per token", "KL to the truth", "accuracy")
    free = (kind.words for kind in CORRECTIONS.values())
    order = [name for name in ("base", "tuned", *_SHOWN.values(), *free) if name in results]
    shown = ((name, strengths[name], results[name]) for name in order)
    rows = ((name, mu, f"{near.nll:.4f}", f"{near.kl:.4f}", f"{near.accuracy:.1%}") for name, mu, near in shown)
    return ReportTable("Held-out diaries", heads, tuple(map(Row, rows)))


def _example(path: Path) -> Table:
    """Show the first prompt with different tuned and steered answers, else the first prompt."""
    with path.open(encoding="utf-8") as file:
        rows: list[PredictionRecord] = [json.loads(line) for line in file]
    shown = next((row for row in rows if row["completion"] != row["tuned"]), rows[0])
    table = Table(title=f"Greedy decoding after: {shown['prompt']}", title_justify="left", show_header=False)
    for name, text in (("base", shown["base"]), ("tuned", shown["tuned"]), ("steered", shown["completion"])):
        table.add_row(name, str(text))
    return table


def _next_steps(folder: Path) -> str:
    return (
        f"Calibration:  {folder / 'calibration.json'}\n"
        f"Predictions:  {folder / 'predictions.jsonl'}\n"
        f"Report:       svd-lightning report {folder}\n"
        f"Curves:       tensorboard --logdir {folder}\n"
        "On your model and data:\n"
        "  svd-lightning fit --model.adapter configs/adapter/lora.yaml --model.backbone.name_or_path MODEL \\\n"
        "    --data JSONLData --data.path TRAIN.jsonl --trainer.max_epochs 1"
    )
