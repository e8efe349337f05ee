"""What a calibration measures on a few of its tokens: rounding noise, and drift and cost of each candidate."""

import copy
from collections.abc import Hashable, Mapping
from typing import Literal, Protocol

import lightning as L
import torch

from svd_lightning.calibration import recall
from svd_lightning.data import Batch, CompletionDataModule
from svd_lightning.module import SteeredLanguageModel
from svd_lightning.processes import gather_objects
from svd_lightning.records import CalibrationRecord, NoiseRecord, ScoredRecord
from svd_lightning.scoring import DriftMeter, NoiseMeter, decoding_costs
from svd_lightning.scoring.cost import NEW, PROMPT
from svd_lightning.steering import Corrected, Correction, Steering
from svd_lightning.strategies import is_sharded, run_step


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
    steerings = _tried(module, record, corrections)
    meter = DriftMeter(module.peft_model, steerings)
    _look(meter, trainer, module, data)
    reads = {key: one.reads_base for key, one in steerings.items()}
    return _with(_with(record, "reads_base", reads), "drift", meter.result())


def measure_cost(
    trainer: L.Trainer,
    module: SteeredLanguageModel,
    data: CompletionDataModule,
    record: CalibrationRecord,
    corrections: Mapping[str, Correction],
) -> CalibrationRecord:
    """Return the record with each candidate's cost, measured on a batch of prompts as predict would have it.

    Call it on every process, with the module in evaluation mode. The first one's clock counts. A context without
    room for such a prompt leaves the cost out.
    """
    if module.context_length is not None and module.context_length < PROMPT + NEW:
        return record
    batch = next(iter(data.prompt_dataloader(data.rows("calibration"))))
    prompts = trainer.strategy.batch_to_device(batch, module.device)
    costs: dict[Hashable, float] = {}

    def measure(batch: Batch) -> None:
        tried = _tried(module, record, corrections)
        costs.update(decoding_costs(module.peft_model, batch, tried, synced_gpus=is_sharded(trainer)))

    with torch.no_grad(), trainer.precision_plugin.predict_step_context():
        run_step(trainer, module, "calibration_step", measure, prompts)
    return _with(record, "cost", gather_objects(costs)[0])


def _tried(
    module: SteeredLanguageModel, record: CalibrationRecord, corrections: Mapping[str, Correction]
) -> dict[Hashable, Steering]:
    """Return the steering of each candidate, by its number, and of each correction, by its name."""
    configured = module.configured
    recipes = [recall(configured, one["rules"], one["strengths"]) for one in record["candidates"]]
    return {
        **dict(enumerate(recipes)),
        **{name: Corrected.of(configured, one) for name, one in corrections.items()},
    }


def _with(
    record: CalibrationRecord, field: Literal["reads_base", "drift", "cost"], found: Mapping[Hashable, float]
) -> CalibrationRecord:
    """Return the record with a field of each candidate that it was found for, by the keys of `_tried`."""
    candidates, fitted = copy.deepcopy((record["candidates"], record.get("corrections", [])))
    scored: dict[Hashable, ScoredRecord] = {**dict(enumerate(candidates)), **{one["name"]: one for one in fitted}}
    for key, value in found.items():
        scored[key][field] = value
    return {**record, "candidates": candidates, "corrections": fitted}


def _look(meter: Meter, trainer: L.Trainer, module: SteeredLanguageModel, data: CompletionDataModule) -> None:
    """Show batches of the calibration split to a meter, as decoding runs them, until it has seen enough."""
    with torch.no_grad(), trainer.precision_plugin.val_step_context():
        for batch in data.calibration_dataloader():
            on_device = trainer.strategy.batch_to_device(batch, module.device)
            run_step(trainer, module, "calibration_step", meter.add, on_device)
            if meter.enough():
                break
