"""What the callbacks refuse before any expensive work starts."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from svd_lightning.calibration.advice import too_small
from svd_lightning.callbacks.run import as_completion_data, run_folder
from svd_lightning.data import CompletionDataModule
from svd_lightning.errors import InputError
from svd_lightning.module import SteeredLanguageModel
from svd_lightning.objective import MaskedObjective
from svd_lightning.report.folder import METRICS, TEST, tested_data
from svd_lightning.scoring.collect import token_collector
from svd_lightning.steering import KLGradient, Steering, TokenCorrectionName
from svd_lightning.strength import StrengthEstimator

_log = logging.getLogger(__name__)

Corrections = bool | TokenCorrectionName | Sequence[TokenCorrectionName]
"""Which corrections a calibration tries: all or none, one, or several."""


def check_calibration_split(data: CompletionDataModule) -> None:
    """Raise InputError if there is no calibration split, or the adapter is trained on it; warn of a small one."""
    calibration = data.split_ids("calibration")
    if len(calibration) < 2:  # gains need an interval
        raise InputError(
            "data.calibration: expected a calibration split of 2 examples or more, got "
            f"{len(calibration) or 'none'}; write --data.calibration 0.1 (a share or a number of the training "
            "examples)"
        )
    for text in too_small(len(calibration)):
        _log.warning("calibration: %s", text)
    shared = sorted(set(calibration) & set(data.split_ids("train")))
    if shared:
        raise InputError(
            f"data.calibration: expected examples that are not trained on, got {len(shared)} that are, "
            f"{shared[0]!r} among them; calibrating on them would overstate the tuned model: take them out of one"
        )


def check_validation(trainer: L.Trainer) -> None:
    """Raise InputError if no validation would run: without such a split, or with a limit of 0."""
    if not as_completion_data(trainer).split_ids("validation"):
        raise InputError(
            "data.validation: calibrate ends with a validation of the strength, and there is no such split; write "
            "--data.validation 0.1 (a share or a number of the examples)"
        )
    if not trainer.limit_val_batches:
        raise InputError(
            "trainer.limit_val_batches: calibrate ends with a validation of the strength; expected more than 0"
        )


def check_test(trainer: L.Trainer) -> None:
    """Raise InputError if the folder holds the results of a test on other data, which these would replace."""
    folder = run_folder(trainer)
    if folder is None or not isinstance(data := trainer.datamodule, CompletionDataModule):  # type: ignore[attr-defined]
        return
    kept = trainer.strategy.broadcast(tested_data(folder))
    if kept not in (None, data.digest("test")):
        raise InputError(
            f"data: expected the test split whose results {str(folder)!r} holds, got another one; move "
            f"{TEST} and {METRICS} elsewhere, or test into another folder: --trainer.default_root_dir FOLDER"
        )


def check_options(folds: int, alphas: Sequence[float], decoded: int, corrections: Corrections) -> None:
    """Raise InputError for fewer than 2 folds, an α outside (0, 1], a negative number to decode, or as `tried`."""
    tried(corrections)
    if folds < 2:
        raise InputError(f"calibration.folds: expected at least 2, got {folds}")
    if decoded < 0:
        raise InputError(f"calibration.decoded: expected a number of examples, or 0 for no check, got {decoded}")
    for alpha in alphas:
        if not 0.0 < alpha <= 1.0:
            raise InputError(f"calibration.alphas: expected shares in (0, 1], got {alpha}")


def tried(corrections: Corrections) -> Sequence[TokenCorrectionName]:
    """Return the names of the corrections to try: all, none, or those that are named.

    Raises:
        InputError: for another name.
    """
    known = get_args(TokenCorrectionName)
    if isinstance(corrections, bool):
        return known if corrections else ()
    names = [corrections] if isinstance(corrections, str) else corrections
    for name in names:
        if name not in known:
            raise InputError(
                f"calibration.corrections: expected true, false or some of {', '.join(known)}, got {name!r}; the "
                "adapter's scale has an option of its own, calibration.scale"
            )
    return names


def check_checkpointing(trainer: L.Trainer) -> None:
    """Raise InputError if a ModelCheckpoint would save before its epoch's calibration, without its strengths.

    Checkpoints by steps or minutes are for resuming; beside them there must be one of each epoch.
    """
    savers = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    by_epoch = [callback for callback in savers if callback.every_n_epochs]
    if (savers and not by_epoch) or not all(_saves_at_epoch_end(callback, trainer) for callback in by_epoch):
        raise InputError(
            "trainer.callbacks: ModelCheckpoint would save before the epoch's calibration; expected one that "
            "saves by epochs (without every_n_train_steps), with save_on_train_epoch_end: true"
        )


def _saves_at_epoch_end(callback: ModelCheckpoint, trainer: L.Trainer) -> bool:
    """Apply Lightning's own rule early: Lightning first waits for the number of validation batches."""
    if callback._save_on_train_epoch_end is not None:
        return callback._save_on_train_epoch_end
    validates = trainer.limit_val_batches and as_completion_data(trainer).split_ids("validation")
    return not validates or (trainer.val_check_interval == 1.0 and trainer.check_val_every_n_epoch == 1)


def check_estimator(estimator: StrengthEstimator, steering: Steering) -> None:
    """Run the estimator on two made-up tokens, so that it raises its InputError now: for too many rules, say.

    Only the number of rules counts. Others take their place, as a rule may fit one vocabulary alone.
    """
    alpha = 0.1 if steering.alpha is None else steering.alpha
    steering = replace(steering, rules=[KLGradient() for _ in steering.rules], strengths=None, alpha=alpha)
    tokens = token_collector(steering)
    tokens.sync_on_compute = False
    logits = torch.tensor([[1.0, 0.9, 0.8], [1.0, 0.7, 0.9]])
    tokens.update(logits, logits.flip(0), torch.tensor([0, 0]), torch.tensor([0, 1]), torch.tensor([0, 0]))
    estimator(MaskedObjective(tokens.compute(), steering.directions, penalty=steering.penalty))


def hint_at_more_data(data: CompletionDataModule, module: SteeredLanguageModel) -> None:
    """Log that many examples are unused: only the user knows which of them the adapter has already seen."""
    used, idle = (len(data.split_ids(split)) for split in ("calibration", "train"))
    if module.adapter_folder is not None and idle > used:
        _log.warning(
            "calibrating on %s examples, %s of the training split are unused: if the adapter has not seen them, "
            "--data.calibration 0.9 calibrates on more",
            used,
            idle,
        )


def as_steered(pl_module: L.LightningModule) -> SteeredLanguageModel:
    """Return the module; raise InputError unless it can be steered."""
    if not isinstance(pl_module, SteeredLanguageModel):
        raise InputError(f"model: expected a SteeredLanguageModel, got {type(pl_module).__name__}")
    return pl_module
