"""What a calibration measures on a few of its tokens: rounding noise, and the drift of each candidate."""

import copy
from collections.abc import Hashable, Mapping
from typing import Protocol

import lightning as L
import torch

from svd_lightning.calibration import recall
from svd_lightning.data import Batch, CompletionDataModule
from svd_lightning.module import SteeredLanguageModel
from svd_lightning.records import CalibrationRecord, NoiseRecord, ScoredRecord
from svd_lightning.scoring import DriftMeter, NoiseMeter
from svd_lightning.steering import Corrected, Correction, Steering
from svd_lightning.strategies import run_step


class Meter(Protocol):
    """What looks at batches until it has seen enough."""

    def add(self, batch: Batch) -> None:
        """Look at a batch."""
        ...

    def enough(self) -> bool:
        """Return whether all processes together have seen enough. Call it on every process."""
        ...


def measure_noise(
    trainer: L.Trainer, module: SteeredLanguageModel, data: CompletionDataModule
) -> NoiseRecord | None:
    """Return the rounding noise; None in float32, where there is none to speak of.

    Call it on every process, with the module in evaluation mode.
    """
    if set(module.arithmetic.values()) == {"float32"}:
        return None
    meter = NoiseMeter(module.peft_model, module.configured.alpha)
    _look(meter, trainer, module, data)
    return meter.result()


def measure_drift(
    trainer: L.Trainer,
    module: SteeredLanguageModel,
    data: CompletionDataModule,
    record: CalibrationRecord,
    corrections: Mapping[str, Correction],
) -> CalibrationRecord:
    """Return the record with each candidate's drift, and whether it reads the base, which is what decoding costs.

    Call it on every process, with the module in evaluation mode.
    """
    configured = module.configured
    recipes = [recall(configured, one["rules"], one["strengths"]) for one in record["candidates"]]
    tried = {name: Corrected.of(configured, one) for name, one in corrections.items()}
    steerings: dict[Hashable, Steering] = dict(enumerate(recipes))
    steerings.update(tried)
    meter = DriftMeter(module.peft_model, steerings)
    _look(meter, trainer, module, data)
    drift = meter.result()
    candidates, fitted = copy.deepcopy((record["candidates"], record.get("corrections", [])))
    scored: dict[Hashable, ScoredRecord] = {**dict(enumerate(candidates)), **{one["name"]: one for one in fitted}}
    for key, one in scored.items():
        one["reads_base"] = steerings[key].reads_base
        if drift:
            one["drift"] = drift[key]
    return {**record, "candidates": candidates, "corrections": fitted}


def _look(meter: Meter, trainer: L.Trainer, module: SteeredLanguageModel, data: CompletionDataModule) -> None:
    """Show batches of the calibration split to a meter, as decoding runs them, until it has seen enough."""
    with torch.no_grad(), trainer.precision_plugin.val_step_context():
        for batch in data.calibration_dataloader():
            on_device = trainer.strategy.batch_to_device(batch, module.device)
            run_step(trainer, module, "calibration_step", meter.add, on_device)
            if meter.enough():
                break
