"""The callback that stops a run between two batches, on all processes together, and saves what resumes it."""

from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any

import lightning as L
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.trainer.states import TrainerFn

from svd_lightning.checkpoint import STOPPED
from svd_lightning.signals import Stopped, check, defer

_PATIENCE = 10.0
"""Seconds in which Lightning's child processes have to end."""


class StopBetweenBatches(L.Callback):
    """Answers SIGTERM and Ctrl-C within one batch; `SteeringTrainer` has one by itself.

    One process stops at once until it trains, then between two batches of training, calibration or validation.
    Several processes stop between the same two batches, whichever of them had the signal; this costs an all-reduce
    of one number per batch. Fit then saves `checkpoints/stopped.ckpt`.
    """

    def __init__(self) -> None:
        self._trained = self._saving = self._resuming = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Stop before weights are loaded."""
        self._trained = False
        check()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop before the first step."""
        check()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let signals wait from now on: none may break off a step. Go on at an epoch's end, where one stopped."""
        defer()
        epoch, stopped = trainer.fit_loop.epoch_loop, self._resuming
        self._resuming = False
        if stopped and epoch._is_training_done and not epoch.val_loop.restarted_mid_evaluation:
            epoch.val_loop._has_run = True  # or Lightning would train on one more batch

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop, but not after an epoch's last batch, where Lightning would resume in the next epoch."""
        self._trained = True
        if not trainer.fit_loop.epoch_loop._is_training_done:
            check()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop before the calibration; where a validation has made one, its checkpoint is saved first."""
        if not trainer.fit_loop.epoch_loop._should_check_val_epoch():
            check()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop before the calibration."""
        check()

    def on_validation_batch_start(self, *_: Any, **__: Any) -> None:
        """Stop between two batches."""
        check()

    def on_test_batch_start(self, *_: Any, **__: Any) -> None:
        """Stop between two batches."""
        check()

    def on_predict_batch_start(self, *_: Any, **__: Any) -> None:
        """Stop between two batches."""
        check()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save what resumes a fit, say so, and end the child processes."""
        if isinstance(exception, Stopped):
            try:
                dry = trainer.fast_dev_run  # type: ignore[attr-defined]
                if trainer.state.fn is TrainerFn.FITTING and self._trained and not dry:
                    exception.tell(self._save(trainer))
            finally:
                _end_children(trainer)

    def state_dict(self) -> dict[str, bool]:
        """Return whether a signal has brought the checkpoint about."""
        return {"stopped": self._saving}

    def load_state_dict(self, state_dict: dict[str, bool]) -> None:
        """Remember whether a signal had stopped the run."""
        self._resuming = state_dict["stopped"]

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Have an interrupted validation begin again, and the end of an epoch."""
        if not self._saving:
            return
        loops = checkpoint["loops"]["fit_loop"]
        for count in ("current", "total"):
            if trainer.validating:
                first = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
                loops["epoch_loop.val_loop.batch_progress"][count].update(first)
            epoch = loops["epoch_progress"][count]
            epoch["processed"] = epoch["completed"]

    def _save(self, trainer: L.Trainer) -> str:
        """Save a checkpoint; return the line that says how to go on from it."""
        run = Path(trainer.log_dir or trainer.default_root_dir)
        path, epoch = run / "checkpoints" / STOPPED, trainer.fit_loop.epoch_loop
        self._saving = True
        try:
            trainer.save_checkpoint(path)
        finally:
            self._saving = False
        if trainer.global_step == epoch.max_steps:
            how = f"the training is done, and `svd-lightning calibrate` with --ckpt_path {path} goes on"
        elif (run / "config.yaml").exists():
            how = f"the same command with --ckpt_path {path} goes on"
        else:
            how = f"trainer.fit with ckpt_path={str(path)!r} goes on"
        return f"step {trainer.global_step} is saved; {how}"


def _end_children(trainer: L.Trainer) -> None:
    """End the processes that Lightning has started; they were stopped at the same batch."""
    launcher = trainer.strategy.launcher
    if not isinstance(launcher, _SubprocessScriptLauncher):
        return
    children = launcher.procs.copy()
    launcher.procs.clear()  # Lightning kills this process once one of its children has failed
    for child in children:
        child.terminate()
    for child in children:
        try:
            child.wait(_PATIENCE)
        except TimeoutExpired:
            child.kill()
            child.wait()
