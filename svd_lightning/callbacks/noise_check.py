"""Measures the rounding noise of a run's arithmetic on its calibration split."""

import lightning as L
import torch

from svd_lightning.data import CompletionDataModule
from svd_lightning.module import SteeredLanguageModel
from svd_lightning.records import NoiseRecord
from svd_lightning.scoring import NoiseMeter
from svd_lightning.strategies import run_step


def measure_noise(
    trainer: L.Trainer, module: SteeredLanguageModel, data: CompletionDataModule
) -> NoiseRecord | None:
    """Return the rounding noise; None in float32, where there is none to speak of.

    Call it on every process, with the module in evaluation mode.
    """
    if set(module.arithmetic.values()) == {"float32"}:
        return None
    meter = NoiseMeter(module.peft_model, module.configured.alpha)
    with torch.no_grad(), trainer.precision_plugin.val_step_context():
        for batch in data.calibration_dataloader():
            on_device = trainer.strategy.batch_to_device(batch, module.device)
            run_step(trainer, module, "calibration_step", meter.add, on_device)
            if meter.enough():
                break
    return meter.result()
