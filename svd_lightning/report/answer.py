"""What the terminal says of a calibration and of a test: base, tuned, the control and what is chosen, no more."""

from collections.abc import Iterator, Sequence

from svd_lightning.records import (
    CalibrationRecord,
    DistributionRecord,
    HeldOutMetricsRecord,
    ScoredRecord,
    gain_unit,
)
from svd_lightning.report.render import ReportTable, Row
from svd_lightning.report.tables import task_table
from svd_lightning.report.words import (
    CHOICE_METRICS,
    choice_gain,
    choice_head,
    choice_value,
    correction_words,
    gain_text,
    in_use,
    metric_gain_text,
    recipe_name,
    strengths_text,
)

_ROWS = {"base": "base", "tuned": "tuned", "control": "control", "steered": "chosen"}
"""Distributions of a test, and their names in its answer."""


def calibration_answer(record: CalibrationRecord) -> Iterator[ReportTable | str]:
    """Yield a calibration's short table, its tasks if it has any, the verdict, warnings and advice."""
    yield _calibration_table(record)
    if record["tasks"]:
        yield task_table(record)
    yield record["message"]
    if record["warning"]:
        yield record["warning"]
    yield from record.get("advice", [])


def held_out_answer(metrics: HeldOutMetricsRecord) -> Iterator[ReportTable]:
    """Yield base, tuned, control and what decoding uses on the test split; and how they answer its questions."""
    found, about = metrics["metrics"]["NLL"], metrics["distributions"]
    rows = (
        Row((shown, f"{found[name]['value']:.4f}", metric_gain_text(found[name])), used=name == "steered")
        for name, shown in _ROWS.items()
        if name in found
    )
    recipes = (f"{shown.capitalize()}: {_recipe(about[name])}. " for name, shown in _ROWS.items() if name in about)
    note = (
        f"{''.join(recipes)}{metrics['examples']} examples. NLL in nats per token, lower is better; "
        "gains over tuned with paired 95 % intervals: if one includes zero, there may be no gain."
    )
    yield ReportTable("Test split", ("", "NLL", "gain over tuned"), tuple(rows), (note,))
    if metrics["questions"]:
        yield choice_answer(metrics)


def choice_answer(metrics: HeldOutMetricsRecord) -> ReportTable:
    """Compare how base, tuned and what decoding uses answer the questions of the test, a row for each metric."""
    found = metrics["metrics"]
    metric_names = [metric for metric in CHOICE_METRICS if metric in found]
    names = [name for name in ("base", "tuned", "steered") if name in found["NLL"]]
    rows = tuple(
        Row(
            (
                choice_head(metric),
                *(choice_value(metric, found[metric][name]) for name in names),
                *(choice_gain(metric, found[metric][name]) for name in names[2:]),
            )
        )
        for metric in metric_names
    )
    heads = ("", *(_ROWS[name] for name in names), *("gain over tuned" for _ in names[2:]))
    note = (
        "Choice NLL: −log MC2 in nats per question, lower is better; the gains of the others in percentage "
        "points; paired 95 % intervals."
    )
    return ReportTable(f"Choices of {metrics['questions']} questions", heads, rows, (note,))


def _calibration_table(record: CalibrationRecord) -> ReportTable:
    rows = [
        Row(("base", "", f"{record['nll_base']:.4f}", "", "")),
        Row(("tuned", "", f"{record['nll_tuned']:.4f}", f"{record['accuracy_tuned']:.1%}", "")),
    ]
    for one in record["candidates"]:
        if one["rules"] == ["Temperature"]:
            rows.append(_row("control", _words(one["rules"], one["strengths"]), one))
            break
    rows.append(_chosen(record))
    note = (
        f"{record['tokens']} tokens of {record['examples']} examples. NLL as fitted to them, in nats per token, "
        f"lower is better; gain over tuned as held out, in {gain_unit(record)}, with its 95 % interval."
    )
    return ReportTable(
        "Calibration", ("", "steering", "NLL", "accuracy", "gain over tuned"), tuple(rows), (note,), 2
    )


def _chosen(record: CalibrationRecord) -> Row:
    """Return the row of what decoding uses."""
    used = record["used"]
    if (name := used.get("correction")) is not None:
        for one in record.get("corrections", []):
            if one["name"] == name:
                return _row("chosen", correction_words(name), one, used=True)
    for candidate in record["candidates"]:
        if any(used["strengths"]) and in_use(candidate, used):
            return _row("chosen", _words(used["rules"], used["strengths"]), candidate, used=True)
    tuned = f"{record['nll_tuned']:.4f}", f"{record['accuracy_tuned']:.1%}"
    return Row(("chosen", "tuned, as it is", *tuned, ""), used=True)


def _row(name: str, steering: str, one: ScoredRecord, *, used: bool = False) -> Row:
    return Row((name, steering, f"{one['nll']:.4f}", f"{one['accuracy']:.1%}", gain_text(one["gain"])), used=used)


def _recipe(about: DistributionRecord) -> str:
    if (correction := about.get("correction")) is not None:
        return correction_words(correction)
    return _words(about["rules"], about["strengths"])


def _words(rules: Sequence[str], strengths: Sequence[float]) -> str:
    if not any(strengths):
        return "tuned, as it is"
    return f"{recipe_name(rules, strengths).removesuffix(' (control)')}, μ {strengths_text(strengths)}"
