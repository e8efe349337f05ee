"""What `run` says before it starts: data, steps, memory and time."""

from collections.abc import Mapping
from dataclasses import dataclass

from svd_lightning.calibration.advice import ENOUGH
from svd_lightning.commands.run.defaults import Lengths, too_few
from svd_lightning.commands.run.measure import Speed
from svd_lightning.planning.memory import size_text


@dataclass(frozen=True)
class Outlook:
    """The size of a run."""

    title: str
    """Base, adapter and data in a few words."""
    kind: str
    """What the data class is called."""
    splits: Mapping[str, int]
    lengths: Lengths
    epochs: int
    """0 where nothing is trained."""
    steps: int
    """Of the optimizer, in all epochs."""
    examples_per_step: int
    learning_rate: float | None
    """None where the user's optimizer does not name one."""
    numbers: str
    """Number format and device."""
    memory: int
    """Peak in bytes."""
    free: int | None
    """Memory that there is; None if not known."""
    speed: Speed | None
    """None where it was not measured."""


def training_seconds(outlook: Outlook, speed: Speed) -> float:
    """Return how long the steps of training take."""
    return outlook.epochs * outlook.splits["train"] * outlook.lengths.mean * speed.training


def scoring_seconds(outlook: Outlook, speed: Speed) -> float:
    """Return how long the forwards of calibration, validation and test take; both models run, the base once.

    Each choice of a question is counted with its own completion, the prompt once.
    """
    lengths, splits, times = outlook.lengths, outlook.splits, max(1, outlook.epochs)
    whole = lengths.mean + (lengths.options - 1.0) * lengths.mean_completion
    calibrated = splits["calibration"] * whole * (1 + times)
    validated = splits["validation"] * lengths.mean * 2 * times
    return (calibrated + validated + splits["test"] * whole * 2) * speed.scoring


def outlook_lines(outlook: Outlook) -> list[str]:
    """Return the lines to print."""
    counts, lengths = outlook.splits, outlook.lengths
    purposes = {"train": "to train", **_PURPOSES} if outlook.epochs else _PURPOSES
    shown = ", ".join(f"{counts[name]:,} {words}" for name, words in purposes.items() if counts[name])
    lines = [
        outlook.title,
        f"data      {outlook.kind}: {shown}; about {lengths.mean:.0f} tokens each, the longest {lengths.longest}",
    ]
    if outlook.epochs:
        passes = "1 epoch" if outlook.epochs == 1 else f"{outlook.epochs} epochs"
        lines.append(
            f"training  {outlook.steps:,} steps in {passes}, {outlook.examples_per_step} examples a step"
            + ("" if outlook.learning_rate is None else f", learning rate {outlook.learning_rate:g}")
        )
    free = "" if outlook.free is None else f"; {size_text(outlook.free)} free"
    lines.append(f"memory    about {size_text(outlook.memory)} at the peak{free}; {outlook.numbers}")
    lines.append(f"time      {_time_text(outlook)}")
    lines += [
        f"warning   {counts[name]} {name} examples are too few to decide by (at least {ENOUGH}): give more data"
        for name in too_few(dict(counts))
    ]
    if outlook.free is not None and outlook.memory > outlook.free:
        lines.append(
            "warning   this may not fit: a smaller base, --model.backbone.load_in_4bit true, or more GPUs"
        )
    return lines


_PURPOSES = {"calibration": "to calibrate", "validation": "to validate", "test": "to test"}


def _time_text(outlook: Outlook) -> str:
    if (speed := outlook.speed) is None:
        return "not measured"
    scoring = duration(scoring_seconds(outlook, speed))
    if not outlook.epochs:
        return f"about {scoring} for forwards of calibration and test; trial decoding comes on top"
    training = duration(training_seconds(outlook, speed))
    return f"about {training} of training, and {scoring} of calibration and test; trial decoding comes on top"


def duration(seconds: float) -> str:
    """Return a time to about its first two digits.

    >>> [duration(seconds) for seconds in (0.2, 42.4, 400.0, 9000.0)]
    ['1 s', '42 s', '7 min', '2.5 h']
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
