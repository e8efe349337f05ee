"""What the check by decoding finds on a real model, and what it adds to a calibration.

    python benchmarks/decoding_check.py MODEL_FOLDER

Warm-starts LoRA briefly on TruthfulQA's best answers (in float32: without AMX a backward pass in bfloat16 takes 35
times as long), then calibrates beside a bfloat16 base, with the strength that a line search finds and with one
many times as large. Prints times, tables and answers. The guard is off, so that both are checked.
"""

import tempfile
import time

import lightning as L
import torch
from jsonargparse import auto_cli
from lightning.pytorch.utilities import disable_possible_user_warnings
from peft import LoraConfig
from quiet import quiet_trainer

from svd_lightning import SteeredLanguageModel, SteeringCalibration
from svd_lightning.callbacks import calibration as timed
from svd_lightning.console import console
from svd_lightning.data import TruthfulQA
from svd_lightning.models import Backbone
from svd_lightning.records import CalibrationRecord
from svd_lightning.report.tables import decoding_table
from svd_lightning.steering import NaturalGradient, Steering
from svd_lightning.strength import Fixed, LineSearch

DATA = "../shared/data/TruthfulQA.csv"


def check(
    model: str,
    *,
    steps: int = 40,
    calibration: int = 32,
    decoded: int = 24,
    max_new_tokens: int = 40,
    slip: float = 24,
) -> None:
    """Print the check of the strength that a line search finds, and of one `slip` times as large."""
    disable_possible_user_warnings()
    L.seed_everything(0, verbose=False)
    data = TruthfulQA(DATA, calibration=calibration, validation=4, test=8, batch_size=2, eval_batch_size=8)
    lora = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
    optimizer = lambda parameters: torch.optim.AdamW(parameters, lr=2e-4)  # noqa: E731
    warm = SteeredLanguageModel(Backbone(model, dtype="float32"), lora, optimizer=optimizer)
    quiet_trainer(".", max_steps=steps).fit(warm, datamodule=data)
    with tempfile.TemporaryDirectory() as folder:
        warm.peft_model.save_pretrained(folder)
        module = SteeredLanguageModel(
            Backbone(model, dtype="bfloat16"),
            folder,
            generation={"max_new_tokens": max_new_tokens},
            steering=Steering([NaturalGradient()], penalty=0.0),
        )
        found = _calibrated(module, data, LineSearch(), decoded)
        _calibrated(module, data, Fixed([slip * found["strengths"][0]]), decoded)


def _calibrated(
    module: SteeredLanguageModel, data: TruthfulQA, estimator: LineSearch | Fixed, decoded: int
) -> CalibrationRecord:
    """Calibrate, and show the check with its seconds beside those of the rest."""
    options = {"alphas": (), "others": False, "show_table": False}
    callback = SteeringCalibration(estimator=estimator, guard=False, decoded=decoded, **options)
    seconds: dict[str, float] = {}
    original = timed.check_decoding, timed.calibrate, callback._collect
    timed.check_decoding, timed.calibrate, callback._collect = (
        _clocked(function, seconds) for function in original
    )
    quiet_trainer(".", callback, limit_val_batches=1).calibrate(module, datamodule=data)
    timed.check_decoding, timed.calibrate, _ = original
    record = module.calibration
    assert record is not None
    console().print(f"Strength {record['strengths'][0]:.3g}: {record['message']}.", seconds)
    console().print(decoding_table(record["decoding"]), *record["decoding"]["texts"], sep="\n")
    return record


def _clocked(function, seconds: dict[str, float]):
    def run(*arguments, **options):
        start, used = time.perf_counter(), time.process_time()
        result = function(*arguments, **options)
        seconds[function.__name__] = round(time.perf_counter() - start, 1)
        seconds[f"{function.__name__}, CPU"] = round(time.process_time() - used, 1)
        return result

    return run


if __name__ == "__main__":
    auto_cli(check)
