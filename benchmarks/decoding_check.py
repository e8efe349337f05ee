"""What the check by decoding finds on a real model, and what it adds to a calibration.

    python benchmarks/decoding_check.py MODEL_FOLDER

Warm-starts LoRA briefly on TruthfulQA's best answers in bfloat16, calibrates without the check and with it, and
prints the check's table. Without the guard, so that there is something to check where steering gains nothing.
"""

import tempfile
import time
from pathlib import Path

import lightning as L
import torch
from jsonargparse import auto_cli
from lightning.pytorch.utilities import disable_possible_user_warnings
from peft import LoraConfig

from svd_lightning import SteeredLanguageModel, SteeringCalibration
from svd_lightning.console import console
from svd_lightning.data import TruthfulQA
from svd_lightning.models import Backbone
from svd_lightning.report.tables import decoding_table
from svd_lightning.steering import KLGradient, NaturalGradient, Steering, SteeringRule
from svd_lightning.strength import Fixed, LineSearch
from svd_lightning.trainer import SteeringTrainer

SHARED = Path(__file__).parents[2] / "shared"


def check(
    model: str,
    *,
    steps: int = 40,
    learning_rate: float = 2e-4,
    decoded: int = 24,
    calibration: int = 96,
    max_new_tokens: int = 40,
    slip: float = 24.0,
) -> None:
    """Print the check of strengths that a line search found, and of one that is `slip` times too large."""
    disable_possible_user_warnings()
    L.seed_everything(0, verbose=False)
    data = TruthfulQA(
        SHARED / "data/TruthfulQA.csv",
        calibration=calibration,
        validation=8,
        test=8,
        eval_batch_size=8,
        batch_size=4,
    )
    module = SteeredLanguageModel(
        Backbone(model, dtype="bfloat16"),
        LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=learning_rate),
        generation={"max_new_tokens": max_new_tokens},
        steering=Steering([KLGradient()], alpha=0.1, penalty=0.0),
    )
    with tempfile.TemporaryDirectory() as folder:
        _trainer(folder, LineSearch(), 0, max_steps=steps).fit(module, datamodule=data)
        for rule in (KLGradient(), NaturalGradient()):
            found = _calibrated(folder, module, data, rule, decoded)
            _calibrated(folder, module, data, rule, decoded, strength=slip * found)


def _calibrated(
    folder: str,
    module: SteeredLanguageModel,
    data: TruthfulQA,
    rule: SteeringRule,
    decoded: int,
    *,
    strength: float | None = None,
) -> float:
    """Calibrate without the check and with it, print the times and the table, and return the strength."""
    module.configured = Steering([rule], alpha=0.1, penalty=0.0)
    estimator, seconds = LineSearch() if strength is None else Fixed([strength]), []
    for count in (0, decoded):
        trainer, start = _trainer(folder, estimator, count), time.perf_counter()
        trainer.calibrate(module, datamodule=data)
        seconds.append(time.perf_counter() - start)
    record = module.calibration
    assert record is not None
    console().print(f"{record['rules'][0]} at {record['strengths'][0]:.3g}: {record['message']}.")
    console().print(f"Calibration and a validation batch {seconds[0]:.1f} s; with the check {seconds[1]:.1f} s.")
    console().print(decoding_table(record["decoding"]))
    for text in record["decoding"]["texts"]:
        console().print(text)
    return record["strengths"][0]


def _trainer(folder: str, estimator: LineSearch | Fixed, decoded: int, **limits: int) -> SteeringTrainer:
    return SteeringTrainer(
        **limits,
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=1,
        callbacks=[SteeringCalibration(estimator=estimator, guard=False, decoded=decoded, show_table=False)],
    )


if __name__ == "__main__":
    auto_cli(check)
