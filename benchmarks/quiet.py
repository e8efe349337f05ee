"""A trainer that prints and writes nothing, for benchmarks."""

from pathlib import Path

from lightning import Callback
from lightning.pytorch.utilities import disable_possible_user_warnings

from svd_lightning.trainer import SteeringTrainer


def quiet_trainer(
    folder: str | Path,
    *callbacks: Callback,
    max_steps: int = -1,
    max_epochs: int | None = None,
    limit_val_batches: int = 0,
) -> SteeringTrainer:
    """On the CPU, without checkpoints, logs, progress and, by default, validation."""
    disable_possible_user_warnings()
    return SteeringTrainer(
        max_steps=max_steps,
        max_epochs=max_epochs,
        limit_val_batches=limit_val_batches,
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
