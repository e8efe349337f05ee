"""The tables of the report, as HTML."""

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from svd_lightning.report.words import (
    CHOICE_METRICS,
    chosen_intervals,
    gain_text,
    in_use,
    intervals_text,
    mask_text,
    metric_name,
    recipe_name,
    share_text,
    strengths_text,
)


def candidate_table(record: Mapping[str, Any], test: Mapping[str, Any] | None) -> str:
    """Base, tuned, and every candidate; with the test split beside the calibration split where there is one.

    Args:
        record: of the calibration.
        test: the same candidates on the test split, or None.
    """
    columns = ("NLL", "as decoded", "accuracy")
    groups = '<tr><th></th><th></th><th colspan="4">calibration split</th><th colspan="3">test split</th></tr>'
    names = ("strength μ", "gain, 95 % interval", *columns, *(columns if test else ()))
    head = f"{groups * bool(test)}<tr>{_headings('distribution', *names)}</tr>"
    tested = {_key(candidate): candidate for candidate in (test or {}).get("candidates", [])}
    rows = [
        _row("base model", "", "", ["", f"{record['nll_base']:.4f}", "", ""], _base(test)),
        _row("tuned", "", "0", ["", *_tuned(record)], _tuned(test), used=not any(record["used"]["strengths"])),
    ]
    for candidate in record["candidates"]:
        again = tested.get(_key(candidate))
        rows.append(
            _row(
                recipe_name(candidate["rules"]),
                candidate["estimator"],
                _strengths(candidate, record),
                [gain_text(candidate["gain"]), *_scores(candidate)],
                [] if test is None else _scores(again) if again else ["", "", ""],
                used=in_use(candidate, record),
                warning=candidate.get("warning"),
            )
        )
    table = f'<table class="candidates"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table>'
    return f'<div class="scroll">{table}</div><p class="read">{escape(_reading(record, test))}</p>'


def mask_table(record: Mapping[str, Any]) -> str:
    """Every mask that was compared, and the one with the largest gain."""
    names = ("mask α", "coverage", "mask size", "penalty λ", "strength μ", "gain, 95 % interval")
    rows = "".join(
        f"<tr><td>{choice['alpha']:g}</td><td>{choice['coverage']:.1%}</td><td>{choice['mask_size']:.1f}</td>"
        f"<td>{choice['penalty']:.3g}</td><td>{strengths_text(choice['strengths'])}</td>"
        f"<td>{_two_lines(gain_text(choice['gain']))}</td></tr>"
        for choice in record["sweep"]
    )
    best = record["recommended"]
    advice = (
        f"Largest gain: α {best['alpha']:g} with a penalty of {best['penalty']:.3g}; {best['reason']}. Here the "
        "penalty λ (added to every token outside the mask) is fitted together with the strengths, on all "
        "tokens, so "
        "these gains are not those of the table above, where λ is the one in use."
    )
    return (
        "<h2>Masks, with the penalty fitted for each</h2>"
        f'<div class="scroll"><table><thead><tr>{_headings(*names)}</tr></thead>'
        f'<tbody>{rows}</tbody></table></div><p class="read">{escape(advice)}</p>'
    )


def choices_table(metrics: Mapping[str, Any]) -> str:
    """How questions were answered under each distribution, over all and by task; nothing where there are none.

    Args:
        metrics: as `test_metrics.json` holds them.
    """
    parts = {"": metrics, **metrics["tasks"]}
    tables = [_choices(task, part, metrics["distributions"]) for task, part in parts.items() if part["questions"]]
    reading = (
        "MC1: the best choice scores above every false one. MC2: probability mass on the true choices. MC3: "
        "share of true choices that score above every false one. Accuracy: some true choice does. The score is "
        "the sum of a choice's log-probabilities, or their mean per token. Below each value: its gain "
        "over tuned in percentage points, with a paired 95 % interval from drawing questions again."
    )
    return "".join(tables) + f'<p class="read">{escape(reading)}</p>' if tables else ""


def _choices(task: str, part: Mapping[str, Any], distributions: Mapping[str, Any]) -> str:
    shown = [metric for metric in CHOICE_METRICS if metric in part["metrics"]]
    rows = []
    for name in part["metrics"][shown[0]]:
        about = distributions.get(name)
        recipe = f"{recipe_name(about['rules'])}, {strengths_text(about['strengths'])}" if about else ""
        cells = [share_text(part["metrics"][metric][name]) for metric in shown[1:]]
        rows.append(_row(name, recipe, share_text(part["metrics"][shown[0]][name]), cells, []))
    title = f"Choices{f' of {escape(task)}' * bool(task)}: {part['questions']} test questions"
    head = _headings("distribution", *(metric_name(metric) for metric in shown))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<h2>{title}</h2><div class="scroll">{table}</div>'


def pairs_table(rows: Mapping[str, Any]) -> str:
    """Names and values."""
    cells = "".join(
        f"<tr><td>{escape(str(name))}</td><td>{escape(str(value))}</td></tr>"
        for name, value in rows.items()
        if value is not None
    )
    return f'<table class="pairs"><tbody>{cells}</tbody></table>'


def _headings(*names: str) -> str:
    return "".join(f"<th>{name}</th>" for name in names)


def _row(
    name: str,
    estimator: str,
    strength: str,
    cells: list[str],
    test: list[str],
    *,
    used: bool = False,
    warning: str | None = None,
) -> str:
    what = escape(name) + f"<small>{escape(estimator)}</small>" * bool(estimator)
    what += f"<small>⚠ {escape(str(warning))}</small>" if warning else ""
    others = "".join(f"<td>{_two_lines(cell)}</td>" for cell in [strength, *cells, *test])
    return f"<tr{' class=used' if used else ''}><td>{what}</td>{others}</tr>"


def _two_lines(cell: str) -> str:
    """An interval goes under its mean."""
    mean, bracket, interval = escape(cell).partition("[")
    return f"{mean}<small>[{interval}</small>" if bracket else mean


def _key(candidate: Mapping[str, Any]) -> tuple[tuple[str, ...], str, tuple[float, ...]]:
    return tuple(candidate["rules"]), candidate["estimator"], tuple(candidate["strengths"])


def _strengths(candidate: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """With the intervals of those that were chosen, or are in use."""
    return (
        f"{strengths_text(candidate['strengths'])} {intervals_text(chosen_intervals(candidate, record))}".strip()
    )


def _scores(candidate: Mapping[str, Any]) -> list[str]:
    return [f"{candidate['nll']:.4f}", f"{candidate['nll_decoded']:.4f}", f"{candidate['accuracy']:.1%}"]


def _base(test: Mapping[str, Any] | None) -> list[str]:
    return [] if test is None else [f"{test['nll_base']:.4f}", "", ""]


def _tuned(record: Mapping[str, Any] | None) -> list[str]:
    if record is None:
        return []
    return [
        f"{record['nll_tuned']:.4f}",
        f"{record['nll_decoded_tuned']:.4f}",
        f"{record['accuracy_tuned']:.1%}",
    ]


def _reading(record: Mapping[str, Any], test: Mapping[str, Any] | None) -> str:
    """How to read the candidates."""
    text = (
        f"NLL in nats per token, lower is better, over {record['tokens']} calibration tokens of "
        f"{record['examples']} examples; here the mask ({mask_text(record['alpha'])}) only silences the steering. "
        "As decoded: under the distribution that decoding draws from, with a penalty of "
        f"{record['penalty']:g} outside the mask"
    )
    if record["penalty"] == -math.inf:
        text += f", so only on the {record['coverage']:.1%} of tokens whose label lies inside it"
    text += (
        ". Accuracy: label ranked first. Gain: as decoded, over the tuned model, held out by cross-fitting; the "
        "interval comes from drawing examples again (bootstrap). An interval that includes zero means that "
        "the gain "
        "is not sure. Sharpening alone is the control: steering earns its name by what it gains beyond it."
    )
    if test is not None:
        text += (
            f" Test split: {test['tokens']} tokens of {test['examples']} examples, with the strengths of the "
            "calibration split."
        )
    return text
