"""Read the results of a finished evaluation."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from svd_lightning.judged import JudgedMeasure, JudgedPart, JudgedRecord, Measure
from svd_lightning.records import IN_NATS, DistributionRecord, HeldOutMetricsRecord, MetricsRecord

BASE, TUNED, STEERED = "base", "tuned", "steered"
PERCENT, NATS = "%", "nats"
_LEFT_OUT = ("perplexity",)
_MEASURES: tuple[Measure, ...] = get_args(Measure)
_BY_JUDGE: tuple[Measure, ...] = get_args(JudgedMeasure)
_RENAMED = {"accuracy": "named"}
"""The accuracy of a judge's record is that of the option named in a written answer, not of the likeliest."""


@dataclass(frozen=True)
class Measurement:
    """One number."""

    metric: str
    """MC1, MC2, MC3, accuracy (of the likeliest option), named (accuracy of the option named in a written answer),
    NLL, KL, choice_NLL, exact_match, rouge_l, truthful, informative, truthful_informative."""
    distribution: str
    """base, tuned, steered, or another that the test compares: control, joint, paper."""
    value: float
    """Percent; nats per token for NLL and KL, per question for choice_NLL."""
    gain: tuple[float, float, float] | None = None
    """Gain over the tuned model (positive is better) with its paired 95 % interval: mean, low, high."""
    task: str | None = None
    """The task, if the number is of one task of a mixture."""
    judge: str | None = None
    """The judge's label, if a judge made the number."""

    @property
    def name(self) -> str:
        """The metric, with the task if there is one: boolq/accuracy."""
        return self.metric if self.task is None else f"{self.task}/{self.metric}"

    @property
    def unit(self) -> str:
        """The unit of the value."""
        return NATS if self.metric in IN_NATS else PERCENT


def measurements(folder: Path) -> list[Measurement]:
    """Return every number in the folder of an evaluation, those of each task too."""
    found: list[Measurement] = []
    if (path := folder / "test" / "test_metrics.json").exists():
        tested: HeldOutMetricsRecord = json.loads(path.read_text(encoding="utf-8"))
        for task, metrics in ((None, tested), *tested.get("tasks", {}).items()):
            found += _tested(metrics, task, distributions=tested["distributions"])
    if (path := folder / "judge" / "judged.json").exists():
        judged: JudgedRecord = json.loads(path.read_text(encoding="utf-8"))
        for task, part in ((None, judged), *judged.get("tasks", {}).items()):
            found += _judged(part, task, judge=judged["judge"]["label"])
    return found


def strengths(folder: Path, warm_start: Path) -> dict[str, dict[str, float]]:
    """Return the strength μ of each rule under each steered distribution, as shared by all tasks.

    Args:
        folder: folder of the evaluation.
        warm_start: folder of the fit before it.
    """
    if (path := folder / "test" / "test_metrics.json").exists():
        steered = json.loads(path.read_text(encoding="utf-8"))["distributions"]
    else:
        calibrated = folder / "calibrate"
        path = (calibrated if calibrated.exists() else warm_start) / "calibration.json"
        steered = {STEERED: json.loads(path.read_text(encoding="utf-8"))["used"]} if path.exists() else {}
    return {name: dict(zip(each["rules"], each["strengths"], strict=True)) for name, each in steered.items()}


def _tested(
    part: MetricsRecord, task: str | None, *, distributions: Mapping[str, DistributionRecord]
) -> Iterator[Measurement]:
    """Yield the metrics of `svd_lightning.scoring.summarise`."""
    steered = distributions.get(STEERED)
    repeated = {"chosen", *(name for name, each in distributions.items() if name != STEERED and each == steered)}
    for metric, entries in part["metrics"].items():
        for name, entry in entries.items():
            if metric in _LEFT_OUT or name in repeated:
                continue
            low, high = entry.get("low"), entry.get("high")
            gain = None if low is None or high is None else (entry["gain"], low, high)
            yield _measurement(metric, name, entry["value"], gain, task)


def _judged(part: JudgedPart, task: str | None, *, judge: str | None) -> Iterator[Measurement]:
    """Yield the measures of the verb judge."""
    for name, system in part["systems"].items():
        for metric in _MEASURES:
            if (value := system.get(metric)) is not None:
                gain = part["gains"].get(name, {}).get(metric)
                numbers = None if gain is None else (gain["mean"], gain["low"], gain["high"])
                by = judge if metric in _BY_JUDGE else None
                yield _measurement(_RENAMED.get(metric, metric), name, value, numbers, task, by)


def _measurement(
    metric: str,
    name: str,
    value: float,
    gain: tuple[float, float, float] | None,
    task: str | None,
    judge: str | None = None,
) -> Measurement:
    scale = 1.0 if metric in IN_NATS else 100.0
    scaled = None if gain is None else (scale * gain[0], scale * gain[1], scale * gain[2])
    return Measurement(metric, name, scale * value, scaled, task, judge)
