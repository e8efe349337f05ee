"""The adapter's scale as a correction: forwards of the tuned model over the calibration split at a few scales."""

import logging
from collections.abc import Callable, Iterable

import lightning as L
import torch

from svd_lightning.calibration import FittedCorrection, LabelSplit, fit_scale
from svd_lightning.data import Batch, CompletionDataModule
from svd_lightning.models.scale import unscalable
from svd_lightning.module import SteeredLanguageModel
from svd_lightning.scoring import scaled_collector
from svd_lightning.signals import check
from svd_lightning.strategies import run_step

_log = logging.getLogger(__name__)


def fit_adapter_scale(
    trainer: L.Trainer,
    module: SteeredLanguageModel,
    data: CompletionDataModule,
    tuned: LabelSplit,
    *,
    folds: int,
    choice: bool,
    progress: Callable[[Iterable[Batch]], Iterable[Batch]],
) -> list[FittedCorrection]:
    """Return the adapter's scale; nothing, with a word in the log, for an adapter that has none.

    Call it on every process, with the module in evaluation mode.

    Args:
        tuned: the label tokens under the tuned model as it is.
        folds, choice: as `fit_scale` takes them.
        progress: shows how far the batches are.
    """
    if (found := unscalable(module.peft_model)) is not None:
        _log.warning("the adapter scale is not tried: it needs plain LoRA or IA3, got %s", found)
        return []
    questions = data.all_choices("calibration")

    def at(scale: float) -> LabelSplit:
        collecting = scaled_collector(module.peft_model, scale, questions=questions)
        with torch.no_grad(), trainer.precision_plugin.val_step_context():
            for batch in progress(data.calibration_dataloader()):
                check()
                on_device = trainer.strategy.batch_to_device(batch, module.device)
                run_step(trainer, module, "calibration_step", collecting.add, on_device)
        labels = collecting.label_split()
        assert labels is not None
        return labels

    return [fit_scale(tuned, at, folds=folds, choice=choice)]
