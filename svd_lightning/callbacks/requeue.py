"""The callback that answers SLURM's requeue signal between two batches, on all processes together."""

import signal
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.plugins.environments import SLURMEnvironment

from svd_lightning.strategies import any_rank


class RequeueBetweenBatches(L.Callback):
    """Delays Lightning's answer to the requeue signal, a checkpoint and `scontrol requeue`, until the batch ends.

    Lightning saves wherever the signal interrupts a process: within an optimizer step, or with one process a
    collective operation ahead of the others, where sharded strategies would wait for ever. Costs one all-reduce of
    a bit per batch. Does nothing outside SLURM, or where `auto_requeue` is off.
    """

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None
        self._answer: Any = None
        self._noticed = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replace Lightning's signal handler; Lightning itself restores the previous one at the end."""
        environment = getattr(trainer.strategy, "cluster_environment", None)
        if not isinstance(environment, SLURMEnvironment) or not environment.auto_requeue:
            return
        self._signal, self._noticed = environment.requeue_signal, False
        assert self._signal is not None
        self._answer = signal.signal(self._signal, self._notice)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and requeue, once any process has had the signal."""
        if self._signal is not None and any_rank(trainer, self._noticed):
            self._noticed = False
            signal.signal(self._signal, signal.SIG_IGN)  # once is enough
            if callable(self._answer):
                self._answer(self._signal, None)
            self._signal = None

    def _notice(self, signum: int, frame: FrameType | None) -> None:
        self._noticed = True
