"""Run by the tests of this folder on several real processes: the chain, verb by verb, under one strategy.

`python -m tests.distributed.ranks JOB.json` runs it on one process, `torchrun … -m tests.distributed.ranks
JOB.json` on several. What each process found goes to `FOUND-<rank>.pt` in the job's folder.
"""

import json
import math
import os
import sys
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import lightning as L
import torch
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from peft import PromptTuningConfig

from svd_lightning.callbacks import PredictionWriter, SteeringCalibration
from svd_lightning.data import JSONLChoices
from svd_lightning.models import Backbone
from svd_lightning.scoring import cost
from svd_lightning.steering import Steering
from svd_lightning.strategies import FSDP1Strategy, FSDP2Strategy, ZeROStrategy
from tests.chain import BASE_FOLDER, Losses, diary_data, diary_model, plain_calibration, quiet_trainer, small_lora
from tests.distributed.like_nccl import DDPWithoutHostMemory, inference_mode

TIMEOUT = 60.0
ADAPTERS = {
    "lora": small_lora,
    "dropout": lambda: small_lora(lora_dropout=0.5),
    "prompt": lambda: PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
}


class ZeROOnCPU(ZeROStrategy):
    """DeepSpeed on CPU processes, which Lightning refuses; the test models are small enough."""

    def setup_environment(self) -> None:
        DDPStrategy.setup_environment(self)

    def setup_distributed(self) -> None:
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # compiled on first use, and spins
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    @property
    def root_device(self) -> torch.device:
        return torch.device("cpu", 0)  # DeepSpeed asks for the number


def new_strategy(name: str, accelerator: str) -> Any:
    """By its name in configs/strategy, with a timeout that turns a hang into a failure; unpatched on GPUs."""
    zero = ZeROStrategy if accelerator == "gpu" else ZeROOnCPU
    return {
        "single": lambda: "auto",
        "ddp": lambda: DDPStrategy(timeout=timedelta(seconds=TIMEOUT)),
        "ddp_without_host_memory": lambda: DDPWithoutHostMemory(TIMEOUT),
        "fsdp": lambda: FSDP1Strategy(timeout_seconds=TIMEOUT),
        "fsdp_offload": lambda: FSDP1Strategy(cpu_offload=True, timeout_seconds=TIMEOUT),
        "fsdp2": lambda: FSDP2Strategy(timeout_seconds=TIMEOUT),
        "zero2": lambda: zero(stage=2, timeout_seconds=TIMEOUT),
        "zero3": lambda: zero(stage=3, persistence_threshold=0, timeout_seconds=TIMEOUT),
        "zero3_offload": lambda: zero(stage=3, offload=True, timeout_seconds=TIMEOUT),
    }[name]()


class Sizes(Callback):
    """How many parameters this process holds while nothing is computed, and whether the module knows where."""

    held, placed = 0, False

    def on_fit_start(self, trainer, pl_module) -> None:
        self.placed = pl_module.device.type == trainer.strategy.root_device.type
        locals_ = (getattr(p, "ds_tensor", getattr(p, "_local_tensor", p)) for p in pl_module.parameters())
        self.held = sum(p.numel() for p in locals_)


class WholeLast(Callback):
    """Fits corrections and decodes answers in the last epoch's calibration alone: they take most of the time."""

    def __init__(self, calibration: SteeringCalibration) -> None:
        self.calibration = calibration

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        last = trainer.current_epoch == trainer.max_epochs - 1
        self.calibration.corrections, self.calibration.decoded = last, 3 if last else 0


class Fault(Callback):
    """Ends this process at a step of fit (−1: the epoch's validation) or predict, by an exit or an exception."""

    def __init__(self, how: str, step: int, rank: int = 1) -> None:
        self.how, self.step, self.rank = how, step, rank

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self._strike(trainer.global_rank, trainer.global_step)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        if not trainer.sanity_checking:
            self._strike(trainer.global_rank, -1)

    def on_predict_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        self._strike(trainer.global_rank, batch_idx)

    def _strike(self, rank: int, step: int) -> None:
        if rank == self.rank and step == self.step:
            if self.how == "kill":
                os.kill(os.getpid(), 9)
            raise RuntimeError(f"process {rank} has met its fate")


def new_module(job: dict[str, Any]) -> Any:
    """From the same seed on every process."""
    L.seed_everything(3, verbose=False)
    steering = Steering(alpha=job.get("alpha", 0.1), penalty=job.get("penalty", -math.inf))
    options = {"steering": steering, "learning_rate": 2e-3, "generation": {"max_new_tokens": 6}}
    options |= job.get("model", {})
    if job.get("sgd"):  # unlike Adam's, its steps grow with the gradients
        options["optimizer"] = partial(torch.optim.SGD, lr=job["sgd"], momentum=0.9)
    backbone = Backbone(name_or_path=str(BASE_FOLDER), load_in_4bit=job.get("four_bits", False))
    return diary_model(ADAPTERS[job.get("adapter", "lora")](), backbone=backbone, **options)


def new_trainer(job: dict[str, Any], verb: str, *callbacks: Callback, **options: Any) -> Any:
    """Over all processes, into a folder of the verb's name."""
    if "fault" in job and job["fault"]["verb"] == verb:
        callbacks = (*callbacks, Fault(**{k: v for k, v in job["fault"].items() if k != "verb"}))
    return quiet_trainer(
        Path(job["folder"]) / verb,
        *callbacks,
        version=0,
        accelerator=job["accelerator"],
        strategy=new_strategy(job["strategy"], job["accelerator"]),
        devices=job["processes"] // job.get("nodes", 1),
        num_nodes=job.get("nodes", 1),
        **job.get("trainer", {}),
        **options,
    )


def fit(job: dict[str, Any], verb: str, ckpt_path: str | None = None) -> dict[str, Any]:
    """Two epochs with calibration and a checkpoint at the end of each."""
    module, losses, sizes = new_module(job), Losses(), Sizes()
    checkpoint = ModelCheckpoint(filename="{epoch}", save_last=True, save_top_k=-1)
    calibration = plain_calibration(folds=3)
    callbacks = [calibration, losses, sizes, checkpoint, *([WholeLast(calibration)] if verb == "fit" else [])]
    trainer = new_trainer(job, verb, *callbacks, max_epochs=2)
    trainer.fit(module, datamodule=job["data"], ckpt_path=ckpt_path)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    placed = {"held": sizes.held, "placed": sizes.placed}
    return {"losses": losses.values, **placed, "calibration": module.calibration, "logged": logged}


def questions(job: dict[str, Any], module: Any, ckpt_path: str) -> dict[str, Any]:
    """Calibration and test on questions, several in a batch, whose options have their prompts in common."""
    path = Path(job["diaries"]) / "questions.jsonl"
    data = JSONLChoices(path, calibration=7, test=5, validation=2, eval_batch_size=3, max_length=64)
    trainer = new_trainer(job, "questions", plain_calibration(folds=3, corrections=True, others=False))
    trainer.calibrate(module, datamodule=data, ckpt_path=ckpt_path)
    calibrated = Path(trainer.log_dir) / "checkpoints/calibrated.ckpt"
    trainer = new_trainer(job, "asked", plain_calibration())
    metrics = trainer.test(new_module(job), datamodule=data, ckpt_path=calibrated, verbose=False)
    return {"metrics": metrics, "calibration": module.calibration}


def run(job: dict[str, Any], verb: str) -> Any:
    """One verb."""
    ckpt_path = job.get("ckpt_path", f"{job['folder']}/fit/run/version_0/checkpoints/last.ckpt")
    if verb == "fit":
        return fit(job, verb)
    if verb == "resume":
        return fit(job, verb, ckpt_path.replace("last", "epoch=0"))
    module = new_module(job)
    if verb == "predict":
        writer = PredictionWriter(output=f"{job['folder']}/predictions.jsonl", compare=True)
        trainer = new_trainer(job, verb, writer)
        trainer.predict(module, datamodule=job["data"], ckpt_path=ckpt_path, return_predictions=False)
        return None
    if verb == "questions":
        return questions(job, module, ckpt_path)
    trainer = new_trainer(job, verb, plain_calibration())
    options = {} if verb == "calibrate" else {"verbose": False}
    found = getattr(trainer, verb)(module, datamodule=job["data"], ckpt_path=ckpt_path, **options)
    table = None if module.test_results is None else module.test_results.table
    return {"metrics": found, "calibration": module.calibration, "test": table}


def main(path: str) -> None:
    torch.set_num_threads(1)
    job = json.loads(Path(path).read_text())
    job["data"] = diary_data(
        Path(job["diaries"]), batch_size=8 // job["processes"], eval_batch_size=job.get("eval_batch_size", 2)
    )
    with ExitStack() as within:
        within.enter_context(mock.patch.object(cost, "_ROUNDS", 1))  # a split model decodes slowly
        if job.get("inference_mode"):
            within.enter_context(inference_mode())
        found = {verb: run(job, verb) for verb in job["verbs"]}
    torch.save(found, Path(job["folder"]) / f"FOUND-{os.environ.get('RANK', '0')}.pt")


if __name__ == "__main__":
    main(sys.argv[1])
