"""What a finished evaluation measured."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

BASE, TUNED, STEERED = "base", "tuned", "steered"
PERCENT, NATS = "%", "nats"
_IN_NATS = ("NLL", "KL")
_LEFT_OUT = ("perplexity",)
_BY_JUDGE = ("truthful", "informative", "truthful_informative")
_RENAMED = {"accuracy": "named"}
"""A judge's accuracy is that of the option named in a written answer; a test's that of the likeliest option."""


@dataclass(frozen=True)
class Measurement:
    """One number."""

    metric: str
    """MC1, MC2, MC3, accuracy (of the likeliest option), named (accuracy of the option named in what was written),
    NLL, KL, exact_match, rouge_l, truthful, informative, truthful_informative."""
    distribution: str
    """base, tuned, steered as configured, or another that the test compares: control, joint, paper."""
    value: float
    """In percent, NLL and KL in nats per token."""
    gain: tuple[float, float, float] | None = None
    """Over the tuned model (positive is better), with its paired 95 % interval: mean, low, high."""
    task: str | None = None
    """Where a dataset mixes several, the one that this number is of."""
    judge: str | None = None
    """Who judged, where a judge did: its label."""

    @property
    def name(self) -> str:
        """The metric, of a task: boolq/accuracy."""
        return self.metric if self.task is None else f"{self.task}/{self.metric}"

    @property
    def unit(self) -> str:
        """What the value is counted in."""
        return NATS if self.metric in _IN_NATS else PERCENT


def measurements(folder: Path) -> list[Measurement]:
    """Everything that the stages of an evaluation wrote into its folder: each number that is one."""
    found: list[Measurement] = []
    if (path := folder / "test" / "test_metrics.json").exists():
        record = json.loads(path.read_text(encoding="utf-8"))
        found += _of_tasks(record, partial(_tested, distributions=record["distributions"]))
    if (path := folder / "judge" / "judged.json").exists():
        record = json.loads(path.read_text(encoding="utf-8"))
        found += _of_tasks(record, partial(_judged, judge=record["judge"]["label"]))
    return found


def strengths(folder: Path, warm_start: Path) -> dict[str, dict[str, float]]:
    """The strength μ of each rule under each steered distribution, those shared by all tasks.

    Args:
        folder: an evaluation's.
        warm_start: the folder of the fit that it evaluates.
    """
    if (path := folder / "test" / "test_metrics.json").exists():
        steered = json.loads(path.read_text(encoding="utf-8"))["distributions"]
    else:
        calibrated = folder / "calibrate"
        path = (calibrated if calibrated.exists() else warm_start) / "calibration.json"
        steered = {STEERED: json.loads(path.read_text(encoding="utf-8"))["used"]} if path.exists() else {}
    return {name: dict(zip(each["rules"], each["strengths"], strict=True)) for name, each in steered.items()}


def _of_tasks(
    record: Mapping[str, Any], read: Callable[[Mapping[str, Any], str | None], Iterator[Measurement]]
) -> Iterator[Measurement]:
    yield from read(record, None)
    for task, part in record.get("tasks", {}).items():
        yield from read(part, task)


def _tested(
    part: Mapping[str, Any], task: str | None, *, distributions: Mapping[str, Any]
) -> Iterator[Measurement]:
    """The metrics of `svd_lightning.scoring.summarise`."""
    steered = distributions.get(STEERED)
    repeated = {"chosen", *(name for name, each in distributions.items() if name != STEERED and each == steered)}
    for metric, entries in part["metrics"].items():
        for name, entry in entries.items():
            if metric in _LEFT_OUT or name in repeated:
                continue
            gain = None if entry.get("low") is None else (entry["gain"], entry["low"], entry["high"])
            yield _measurement(metric, name, entry["value"], gain, task)


def _judged(part: Mapping[str, Any], task: str | None, *, judge: str | None) -> Iterator[Measurement]:
    """The measures of `svd_lightning.commands.judge.measures.summary`."""
    for name, entry in part["systems"].items():
        for metric, value in entry.items():
            if isinstance(value, float):
                gain = (part["gains"].get(name) or {}).get(metric)
                numbers = None if gain is None else (gain["mean"], gain["low"], gain["high"])
                by = judge if metric in _BY_JUDGE else None
                yield _measurement(_RENAMED.get(metric, metric), name, value, numbers, task, judge=by)


def _measurement(
    metric: str,
    name: str,
    value: float,
    gain: tuple[float, float, float] | None,
    task: str | None,
    *,
    judge: str | None = None,
) -> Measurement:
    scale = 1.0 if metric in _IN_NATS else 100.0
    scaled = None if gain is None else (scale * gain[0], scale * gain[1], scale * gain[2])
    return Measurement(metric, name, scale * value, scaled, task, judge)
