"""The checkpoint that keeps what was trained while it is calibrated and validated."""

import logging
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from svd_lightning.checkpoint import TRAINED

_log = logging.getLogger(__name__)


class TrainedCheckpoint:
    """Saves `trained.ckpt` beside the run's checkpoints, and removes it once the epoch has one of its own.

    Without a ModelCheckpoint the user wants no checkpoints, and there is none.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._config = Path()

    def save(self, trainer: L.Trainer) -> None:
        """Save all that trains on. Call it on every process."""
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is not None:
                self._path = Path(callback.dirpath) / TRAINED
                self._config = Path(trainer.log_dir or trainer.default_root_dir) / "config.yaml"  # a broadcast
                trainer.save_checkpoint(self._path, weights_only=callback.save_weights_only)
                return

    def remove(self, trainer: L.Trainer) -> None:
        """Remove the file: the epoch's checkpoint is written."""
        if self._path is not None:
            trainer.strategy.remove_checkpoint(self._path)
            self._path = None

    def name_after_failure(self) -> None:
        """Log, after an error, where the adapter is and what finishes the run. One process may call it alone."""
        if self._path is None:
            return
        command = f"svd-lightning calibrate --config {self._config} --ckpt_path {self._path}"
        if not self._config.exists():
            command = f"trainer.calibrate(model, datamodule=data, ckpt_path={str(self._path)!r})"
        _log.error(
            "the epoch's checkpoint was not written, but the adapter as trained is in %s; finish with `%s`",
            self._path,
            command,
        )
