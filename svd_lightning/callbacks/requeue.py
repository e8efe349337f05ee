"""SLURM's notice that the time is up, answered between two batches and by all processes together."""

import signal
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.plugins.environments import SLURMEnvironment

from svd_lightning.strategies import any_rank


class RequeueBetweenBatches(L.Callback):
    """Puts off Lightning's answer to the requeue signal, a checkpoint and `scontrol requeue`, to the batch's end.

    Lightning saves wherever the signal interrupts a process: within an optimizer step, or with one process a
    collective operation ahead of the others, where sharded strategies would wait for ever. Does nothing outside
    SLURM, or where `auto_requeue` is off; costs one all-reduce of a bit per batch there.
    """

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None
        self._answer: Any = None
        self._noticed = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the place of Lightning's handler, which goes back to what was there before when it is done."""
        environment = getattr(trainer.strategy, "cluster_environment", None)
        if not isinstance(environment, SLURMEnvironment) or not environment.auto_requeue:
            return
        self._signal, self._noticed = environment.requeue_signal, False
        assert self._signal is not None
        self._answer = signal.signal(self._signal, self._notice)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and requeue, once any process has been told."""
        if self._signal is not None and any_rank(trainer, self._noticed):
            self._noticed = False
            signal.signal(self._signal, signal.SIG_IGN)  # once is enough
            if callable(self._answer):
                self._answer(self._signal, None)
            self._signal = None

    def _notice(self, signum: int, frame: FrameType | None) -> None:
        self._noticed = True
