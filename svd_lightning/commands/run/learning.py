"""Whether the adapter was still learning when its training ended, by the training loss that the run logged."""

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_LEAST = 10
"""Logged steps in the last third of a run, below which nothing is said."""
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
    place = shlex.quote(str(folder))
    return (
        f"Still learning: over its last {found.steps} steps the training loss fell by {fell:.2f} ± {error:.2f} "
        f"nats per token an epoch. To train on: svd-lightning fit {place} --trainer.max_epochs {epochs + 1}, then "
        f"svd-lightning test {place}"
    )


def logged_losses(folder: Path) -> dict[int, float]:
    """Return the training loss by step from TensorBoard's files in a run folder; of a repeated step the last."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # takes a second

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    if _LOSS not in events.Tags()["scalars"]:
        return {}
    return {event.step: event.value for event in events.Scalars(_LOSS)}
