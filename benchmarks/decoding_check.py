"""What the check by decoding finds on a real model, and what it adds to a calibration.

    python benchmarks/decoding_check.py MODEL_FOLDER

Warm-starts LoRA briefly on TruthfulQA's best answers in bfloat16, then calibrates without the check, with it, and
with a strength many times too large; prints times, tables and answers. The guard is off: so something is checked
where steering gains nothing too.
"""

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
from svd_lightning.steering import NaturalGradient, Steering
from svd_lightning.strength import Fixed, LineSearch
from svd_lightning.trainer import SteeringTrainer

SHARED = Path(__file__).parents[2] / "shared"


def check(
    model: str,
    *,
    steps: int = 40,
    calibration: int = 48,
    decoded: int = 24,
    max_new_tokens: int = 40,
    slip: float = 24.0,
) -> None:
    """Print the check of the strength that a line search finds, and of one `slip` times as large."""
    disable_possible_user_warnings()
    L.seed_everything(0, verbose=False)
    data = TruthfulQA(
        SHARED / "data/TruthfulQA.csv",
        calibration=calibration,
        validation=8,
        test=8,
        batch_size=2,
        eval_batch_size=8,
    )
    module = SteeredLanguageModel(
        Backbone(model, dtype="bfloat16"),
        LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=2e-4),
        generation={"max_new_tokens": max_new_tokens},
        steering=Steering([NaturalGradient()], penalty=0.0),
    )
    _trainer(max_steps=steps).fit(module, datamodule=data)
    console().print(f"{steps} steps done")
    without = _calibrated(module, data, LineSearch(), 0)
    found = _calibrated(module, data, LineSearch(), decoded)
    console().print(f"Calibration and a validation batch: {without:.0f} s; with the check {found:.0f} s.")
    assert module.calibration is not None
    _calibrated(module, data, Fixed([slip * module.calibration["strengths"][0]]), decoded)


def _calibrated(
    module: SteeredLanguageModel, data: TruthfulQA, estimator: LineSearch | Fixed, decoded: int
) -> float:
    """Calibrate, show the check if there is one, and return the seconds."""
    callback = SteeringCalibration(
        estimator=estimator, guard=False, alphas=(), others=False, decoded=decoded, show_table=False
    )
    start = time.perf_counter()
    _trainer(callback).calibrate(module, datamodule=data)
    seconds = time.perf_counter() - start
    record = module.calibration
    assert record is not None
    console().print(f"Strength {record['strengths'][0]:.3g}: {record['message']}.")
    if decoded:
        console().print(decoding_table(record["decoding"]), *record["decoding"]["texts"], sep="\n")
    return seconds


def _trainer(*callbacks: L.Callback, max_steps: int = -1) -> SteeringTrainer:
    return SteeringTrainer(
        max_steps=max_steps,
        max_epochs=1,
        accelerator="cpu",
        default_root_dir=".",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=1 if callbacks else 0,
        callbacks=list(callbacks),
    )


if __name__ == "__main__":
    auto_cli(check)
