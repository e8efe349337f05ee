"""Memory and time of a calibration on questions with options, with the heap trimmed after each batch and without.

    OMP_NUM_THREADS=1 python benchmarks/question_memory.py MODEL_FOLDER SCRATCH

WinoGrande after two training steps, all passes of a calibration: base, tuned, scales of the adapter, noise, drift.
Each way runs in a process of its own; prints what it held at most beyond what it held before, and CPU seconds.
"""

import resource
import time
from multiprocessing import get_context
from pathlib import Path

import lightning as L
from evidence_tasks import Sizes, load_task
from jsonargparse import auto_cli
from quiet import quiet_trainer
from warm_starts import Dtype, WarmStart, untrained

from svd_lightning import SteeringCalibration, module


def run(model: str, scratch: Path, *, questions: int = 20, dtype: Dtype = "bfloat16") -> None:
    """Calibrate both ways.

    Args:
        model: folder of a model.
        scratch: folder for the task's files.
        questions: how many to calibrate on.
        dtype: of the base.
    """
    for trim in (False, True):
        child = get_context("spawn").Process(target=_calibrate, args=(model, scratch, questions, dtype, trim))
        child.start()
        child.join()


def _calibrate(model: str, scratch: Path, questions: int, dtype: Dtype, trim: bool) -> None:
    L.seed_everything(0, verbose=False)
    if not trim:
        module.trim_heap = lambda: None
    task, warm = load_task("winogrande", scratch, Sizes(16, questions, 8, 8)), WarmStart(2, 1e-3)
    tuned = untrained(model, "lora", warm, dtype=dtype)
    quiet_trainer(".", max_steps=warm.steps).fit(tuned, datamodule=task.data)
    before, begun = _peak(), time.process_time()
    calibrating = SteeringCalibration(show_table=False, scale=True)
    quiet_trainer(".", calibrating, limit_val_batches=1).calibrate(tuned, datamodule=task.data, verbose=False)
    way = "trimmed" if trim else "not trimmed"
    print(
        f"{way}: {_peak() - before:.2f} GB beyond {before:.2f}, {time.process_time() - begun:.0f} CPU s",
        flush=True,
    )


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    auto_cli(run)
