"""The last screen of `run`: what the records of calibration and test say, in about ten lines."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from svd_lightning.calibration.advice import ENOUGH
from svd_lightning.metrics import Gain
from svd_lightning.records import (
    CHOICE_NLL,
    PER_QUESTION,
    PER_TOKEN,
    CalibrationRecord,
    HeldOutMetricsRecord,
    MetricRecord,
    UsedRecord,
    fits_choice,
    gain_unit,
)
from svd_lightning.report import ReportTable, Row, choice_answer
from svd_lightning.report.words import (
    choice_text,
    correction_words,
    gain_text,
    metric_gain_text,
    recipe_name,
)


@dataclass(frozen=True)
class Answer:
    """What to print."""

    tables: tuple[ReportTable, ...]
    lines: tuple[str, ...]
    commands: tuple[str, ...]


def answer(
    record: CalibrationRecord,
    metrics: HeldOutMetricsRecord | None,
    *,
    folder: Path,
    trained: bool,
    learning: str | None = None,
) -> Answer:
    """Return the answer of a run.

    Args:
        record: the calibration.
        metrics: the test with it; None where there is no test split.
        folder: of the run.
        trained: whether the run trained the adapter, and did not only calibrate it.
        learning: that it was still learning, if so; the first line.
    """
    lines = [
        *([] if learning is None else [learning]),
        *([] if metrics is None else _learned(metrics, trained=trained)),
        f"Calibration: {record['message']}.",
        *([] if metrics is None else _tested(record, metrics)),
        f"Cost: {_cost(record)}.",
    ]
    place = shlex.quote(str(folder))
    commands = (
        f"svd-lightning predict {place} --predict.compare true",
        f"svd-lightning inspect {place}",
        f"svd-lightning export {place} {shlex.quote(str(Path('out', folder.resolve().name)))}",
    )
    tables = [_calibration_table(record) if metrics is None else _test_table(record, metrics)]
    if metrics is not None and metrics["questions"]:
        tables.append(choice_answer(metrics))
    return Answer(tuple(tables), tuple(lines), commands)


def chosen_name(record: CalibrationRecord) -> str:
    """Return what decoding uses, in a few words."""
    if any(task["judged_by"] == "task" for task in record["tasks"]):
        return "chosen for each task"
    return _name(record["used"])


def _name(used: UsedRecord) -> str:
    if (correction := used.get("correction")) is not None:
        return correction_words(correction)
    if not any(used["strengths"]):
        return "tuned, as it is"
    name = recipe_name(used["rules"], used["strengths"])
    return name if used["rules"] == ["Temperature"] else f"steered by {name}"


def _test_table(record: CalibrationRecord, metrics: HeldOutMetricsRecord) -> ReportTable:
    """Compare base, tuned and what was chosen on the test split."""
    nll = metrics["metrics"]["NLL"]
    shown = {"base": "base", "tuned": "tuned", "steered": f"chosen: {chosen_name(record)}"}
    rows = []
    for name, words in shown.items():
        cells = (words, f"{nll[name]['value']:.4f}", metric_gain_text(nll[name]))
        rows.append(Row(cells, used=name == "steered"))
    examples = f"{metrics['examples']} test examples; NLL in nats per token, lower is better"
    return ReportTable(examples, ("", "NLL", "gain over tuned, 95 %"), tuple(rows))


def _calibration_table(record: CalibrationRecord) -> ReportTable:
    """Compare the same on the calibration split, where there is no test split."""
    rows = [
        Row(("base", f"{record['nll_base']:.4f}", "")),
        Row(("tuned", f"{record['nll_tuned']:.4f}", "")),
        Row((f"chosen: {chosen_name(record)}", "", gain_text(record["used"]["gain"])), used=True),
    ]
    title = f"{record['examples']} calibration examples, the gain held out; there is no test split"
    return ReportTable(title, ("", "NLL", "gain over tuned, 95 %"), tuple(rows))


def _learned(metrics: HeldOutMetricsRecord, *, trained: bool) -> Iterator[str]:
    """Say whether tuned is surely better than base, on the test split."""
    gain = _over_base(metrics["metrics"]["NLL"]["base"])
    who = "Training" if trained else "The adapter"
    if gain is None:
        yield f"{who}: one test example does not show whether it helps."
        return
    verdict = "surely helps" if gain.sure else "surely harms" if gain.surely_lost else "makes no sure difference"
    yield f"{who} {verdict}: the tuned model gains {gain} {PER_TOKEN} over the base."
    if choice := metrics["metrics"].get(CHOICE_NLL):
        yield f"In the choice among options it gains {_over_base(choice['base'])} {PER_QUESTION} over the base."
    if metrics["examples"] < ENOUGH:
        yield f"{metrics['examples']} test examples are few (at least {ENOUGH}): read the intervals with care."


def _gain(entry: MetricRecord) -> Gain | None:
    """Return a metric's gain over the tuned model; None where it has no interval."""
    low, high = entry.get("low"), entry.get("high")
    return None if low is None or high is None else Gain(entry["gain"], low, high)


def _over_base(base: MetricRecord) -> Gain | None:
    """Return what the tuned model gains over the base, from what the base gains over the tuned model."""
    gain = _gain(base)
    return None if gain is None else Gain(-gain.mean, -gain.high, -gain.low)


def _tested(record: CalibrationRecord, metrics: HeldOutMetricsRecord) -> Iterator[str]:
    """Say what the test finds of what was chosen, in the calibration's unit; nothing of the tuned model."""
    by_choice = fits_choice(record)
    entries = metrics["metrics"].get(CHOICE_NLL if by_choice else "NLL")  # old tests lack that of the choice
    gain = None if entries is None else _gain(entries["steered"])
    if gain is None or gain.low == gain.high == 0.0:
        return
    found = "surely more" if gain.sure else "surely less" if gain.surely_lost else "not surely other than zero"
    yield f"Test: {chosen_name(record)} gains {gain} {gain_unit(record)} over the tuned model, {found}."
    mc1 = metrics["metrics"]["MC1"]["steered"] if by_choice else None
    if mc1 is not None and (mc1.get("high") or 0.0) < 0.0:
        yield f"It answers fewer test questions rightly: MC1 {choice_text('MC1', mc1)} points."
    if gain.high < record["used"]["gain"]["low"] and not record["tasks"]:
        yield (
            "The calibration split promised surely more: the two splits differ, and so may what comes later; draw "
            "both from the same rows at random."
        )


def _cost(record: CalibrationRecord) -> str:
    reading = [one["rules"] for one in record["candidates"] if one.get("reads_base", True)]
    used: Sequence[UsedRecord] = [record["used"], *(task["used"] for task in record["tasks"])]
    if any("correction" not in one and any(one["strengths"]) and one["rules"] in reading for one in used):
        return "tuned and base both run at every token, in one batch or one after the other"
    return "decoding runs the tuned model alone"
