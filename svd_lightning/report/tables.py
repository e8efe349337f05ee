"""The tables of the report, as HTML."""

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from svd_lightning.report.words import gain_text, in_use, mask_text, recipe_name, strengths_text


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
                strengths_text(candidate["strengths"]),
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
