"""What the callbacks refuse before any expensive work starts."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from svd_lightning.data import CompletionDataModule
from svd_lightning.errors import InputError
from svd_lightning.module import SteeredLanguageModel
from svd_lightning.objective import MaskedObjective
from svd_lightning.scoring.collect import token_collector
from svd_lightning.steering import KLGradient, Steering
from svd_lightning.strength import StrengthEstimator

_log = logging.getLogger(__name__)


def check_calibration_split(data: CompletionDataModule) -> None:
    """Refuse a missing calibration split, or one that the adapter was trained on.

    Raises:
        InputError: in either case.
    """
    calibration = data.split_ids("calibration")
    if not calibration:
        raise InputError(
            "data.calibration: expected a calibration split, got none; write --data.calibration 0.1 (a share or a "
            "number of the training examples)"
        )
    shared = sorted(set(calibration) & set(data.split_ids("train")))
    if shared:
        raise InputError(
            f"data.calibration: expected examples that are not trained on, got {len(shared)} that are, "
            f"{shared[0]!r} among them; calibrating on them would overstate the tuned model: take them out of one"
        )


def check_validation(trainer: L.Trainer) -> None:
    """Refuse to calibrate where no validation would run.

    Raises:
        InputError: without a validation split, or with a limit of 0.
    """
    if not as_completion_data(trainer).split_ids("validation"):
        raise InputError(
            "data.validation: calibrate ends with a validation of the strength, and there is no such split; write "
            "--data.validation 0.1 (a share or a number of the examples)"
        )
    if not trainer.limit_val_batches:
        raise InputError(
            "trainer.limit_val_batches: calibrate ends with a validation of the strength; expected more than 0"
        )


def check_options(folds: int, alphas: Sequence[float]) -> None:
    """Refuse too few folds, and masks out of range.

    Raises:
        InputError: for fewer than 2 folds, or an α outside (0, 1].
    """
    if folds < 2:
        raise InputError(f"calibration.folds: expected at least 2, got {folds}")
    for alpha in alphas:
        if not 0.0 < alpha <= 1.0:
            raise InputError(f"calibration.alphas: expected shares in (0, 1], got {alpha}")


def check_checkpointing(trainer: L.Trainer) -> None:
    """Refuse checkpoints that would be written before their epoch's calibration, without its strength.

    Checkpoints by steps or minutes serve resuming; beside them there must be one of each epoch.

    Raises:
        InputError: for such a ModelCheckpoint.
    """
    found = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    by_epoch = [callback for callback in found if callback.every_n_epochs]
    if len(by_epoch) < bool(found) or not all(_saves_at_epoch_end(callback, trainer) for callback in by_epoch):
        raise InputError(
            "trainer.callbacks: ModelCheckpoint would save before the epoch's calibration; expected one that "
            "saves by epochs (without every_n_train_steps), with save_on_train_epoch_end: true"
        )


def _saves_at_epoch_end(callback: ModelCheckpoint, trainer: L.Trainer) -> bool:
    """Lightning's own rule, which it can apply only once it knows how many validation batches there are."""
    if callback._save_on_train_epoch_end is not None:
        return callback._save_on_train_epoch_end
    validates = trainer.limit_val_batches and as_completion_data(trainer).split_ids("validation")
    return not validates or (trainer.val_check_interval == 1.0 and trainer.check_val_every_n_epoch == 1)


def check_estimator(estimator: StrengthEstimator, steering: Steering) -> None:
    """Try the estimator on two made-up tokens: it may be one for a single rule, or hold too many strengths.

    The rules play no part, only their number: one that belongs to a vocabulary has nothing to say of another.

    Raises:
        InputError: as the estimator.
    """
    alpha = 0.1 if steering.alpha is None else steering.alpha
    steering = replace(steering, rules=[KLGradient() for _ in steering.rules], strengths=None, alpha=alpha)
    tokens = token_collector(steering)
    tokens.sync_on_compute = False
    logits = torch.tensor([[1.0, 0.9, 0.8], [1.0, 0.7, 0.9]])
    tokens.update(logits, logits.flip(0), torch.tensor([0, 0]), torch.tensor([0, 1]), torch.tensor([0, 0]))
    estimator(MaskedObjective(tokens.compute(), steering.directions, penalty=steering.penalty))


def hint_at_more_data(data: CompletionDataModule, module: SteeredLanguageModel) -> None:
    """Say that training examples lie idle: only the user knows what an adapter trained elsewhere has seen."""
    here, idle = (len(data.split_ids(split)) for split in ("calibration", "train"))
    if module.adapter_folder is not None and idle > here:
        _log.warning(
            "calibrating on %s examples, while %s of the training split lie idle: where the adapter has not seen "
            "them, --data.calibration 0.9 calibrates on more",
            here,
            idle,
        )


def as_completion_data(trainer: L.Trainer) -> CompletionDataModule:
    """Return the trainer's data, known to be prompts and completions."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(data, CompletionDataModule):
        raise InputError(
            f"datamodule: expected a svd_lightning.data.CompletionDataModule with a calibration split, got "
            f"{type(data).__name__}; pass one as trainer.fit(model, datamodule=...)"
        )
    return data


def as_steered(pl_module: L.LightningModule) -> SteeredLanguageModel:
    """Return the module, known to be one that can be steered."""
    if not isinstance(pl_module, SteeredLanguageModel):
        raise InputError(f"model: expected a SteeredLanguageModel, got {type(pl_module).__name__}")
    return pl_module


def run_folder(trainer: L.Trainer) -> Path | None:
    """Return where this run keeps its files, or None. Call it on every rank: the name is broadcast.

    Without a logger and a `default_root_dir` Lightning names the working directory, whose files are not this
    run's to replace.
    """
    folder = trainer.log_dir
    at_home = not trainer.loggers and Path(trainer.default_root_dir).resolve() == Path.cwd()
    return None if folder is None or at_home else Path(folder)
