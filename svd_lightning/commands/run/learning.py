"""Whether the adapter was still learning when its training ended: by validation, or else by the training loss."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from svd_lightning.records import PER_TOKEN, CalibrationRecord, ValidationRecord, gain_unit

_LEAST = 10
"""Validation examples, or logged steps in the last third of a run, below which nothing is said."""
_SURE = 2.3
"""Standard errors that a slope must differ from zero: Student's t, 95 %, for as few as ten steps."""
_LOSS = "train/loss"


@dataclass(frozen=True)
class Trend:
    """How the training loss fell over the last third of the steps, in nats per token and step."""

    slope: float
    error: float
    """Standard error of the slope."""
    steps: int

    @property
    def falls(self) -> bool:
        """Whether the loss was surely still falling."""
        return self.slope + _SURE * self.error < 0.0


@dataclass(frozen=True)
class Fall:
    """How the validation NLL fell between two validations, in nats per token and epoch."""

    mean: float
    error: float
    """Half the width of its 95 % interval."""
    examples: int

    @property
    def sure(self) -> bool:
        """Whether the NLL surely fell."""
        return self.mean > self.error


def fall(validations: Sequence[ValidationRecord]) -> Fall | None:
    """Compare the last two validations, example by example; None where there are not two of the same examples.

    With the change Δ_i of Σ log p of an example and its n_i tokens, the mean ΣΔ / Σn is a ratio of two sums over
    examples, so its standard error is √(Σ (Δ_i − mean · n_i)² · E / (E − 1)) / Σn.
    """
    if len(validations) < 2 or validations[0]["examples"] != validations[1]["examples"]:
        return None
    before, after = validations
    gain = torch.tensor(after["log_probs"]).double() - torch.tensor(before["log_probs"]).double()
    possible = gain.isfinite()
    gain, tokens = gain[possible], torch.tensor(after["tokens"]).double()[possible]
    if (examples := len(gain)) < _LEAST:
        return None
    mean = gain.sum() / tokens.sum()
    rest = (gain - mean * tokens).square().sum() * examples / (examples - 1)
    epochs = after["epochs"] - before["epochs"]
    return Fall(mean.item() / epochs, 1.96 * rest.sqrt().item() / tokens.sum().item() / epochs, examples)


def fall_line(found: Fall, record: CalibrationRecord, *, epochs: int, folder: Path) -> str | None:
    """Say that more training is worth trying, beside what, and how; None if the NLL did not surely fall.

    Args:
        found: the fall.
        record: the calibration, whose candidates gained something held out.
        epochs: what the run trained.
        folder: of the run.
    """
    if not found.sure:
        return None
    alike = gain_unit(record) == PER_TOKEN
    tried = [*record["candidates"], *record.get("corrections", [])] if alike else []
    best = max((one["gain"]["mean"] for one in tried), default=found.mean)
    more = f", more than any candidate here gains ({max(best, 0.0):.2f})" if best < found.mean else ""
    return (
        f"Still learning: between the last two validations the NLL fell by {found.mean:.2f} ± {found.error:.2f} "
        f"{PER_TOKEN} an epoch ({found.examples} examples){more}. {_train_on(epochs, folder)}"
    )


def _train_on(epochs: int, folder: Path) -> str:
    place = shlex.quote(str(folder))
    more = f"svd-lightning fit {place} --trainer.max_epochs {epochs + 1}"
    return f"To train on: {more}, then svd-lightning test {place}"


def trend(losses: Mapping[int, float]) -> Trend | None:
    """Fit a line to the last third of the losses by step, by least squares; None where there are too few.

    The steps' batches differ, so the residuals are those of the batches, and the standard error counts them.
    """
    last = sorted(losses.items())[-(len(losses) // 3) :] if len(losses) >= 3 else []
    if len(last) < _LEAST:
        return None
    steps, values = zip(*last, strict=True)
    middle, level = sum(steps) / len(last), sum(values) / len(last)
    spread = sum((step - middle) ** 2 for step in steps)
    slope = sum((step - middle) * (value - level) for step, value in last) / spread
    rest = sum((value - level - slope * (step - middle)) ** 2 for step, value in last)
    return Trend(slope, math.sqrt(rest / (len(last) - 2) / spread), len(last))


def learning_line(found: Trend | None, *, steps: int, epochs: int, folder: Path) -> str | None:
    """Say that more training is worth trying, and how; None where the loss was not surely falling.

    Args:
        found: the trend.
        steps, epochs: what the run trained.
        folder: of the run.
    """
    if found is None or not found.falls:
        return None
    epoch = steps / epochs
    fell, error = -found.slope * epoch, _SURE * found.error * epoch
    return (
        f"Still learning: over its last {found.steps} steps the training loss fell by {fell:.2f} ± {error:.2f} "
        f"nats per token an epoch. {_train_on(epochs, folder)}"
    )


def logged_losses(folder: Path) -> dict[int, float]:
    """Return the training loss by step from TensorBoard's files in a run folder; of a repeated step the last."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # takes a second

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    if _LOSS not in events.Tags()["scalars"]:
        return {}
    return {event.step: event.value for event in events.Scalars(_LOSS)}
