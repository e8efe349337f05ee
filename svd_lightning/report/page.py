"""The report of a run as one HTML page that needs nothing else: no scripts, no network."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from svd_lightning.report import canvas
from svd_lightning.report.explanations import about_figure
from svd_lightning.report.figures import calibration_figures
from svd_lightning.report.folder import Run
from svd_lightning.report.tables import candidate_table, choices_table, mask_table, pairs_table
from svd_lightning.report.task_figures import tasks_table
from svd_lightning.report.words import (
    gain_text,
    in_use,
    intervals_text,
    mask_text,
    recipe_name,
    short,
    strengths_text,
)

_PAGE = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
_VERDICT_COLOURS = {"steer": canvas.GREEN, "control": canvas.PURPLE, "tuned": canvas.MUTED}
_SETTINGS = ("estimator", "guard", "alpha", "penalty", "tokens", "examples", "epoch", "global_step")


def page(run: Run) -> str:
    """The whole report.

    Args:
        run: what `load_run` found.
    """
    record = run.record
    colours = {name: canvas.variable(getattr(canvas, name.upper())) for name in ("ink", "muted", "grid", "orange")}
    message = str(record["message"])
    return _PAGE.substitute(
        colours,
        verdict=canvas.variable(_VERDICT_COLOURS.get(str(record.get("verdict")), canvas.MUTED)),
        scheme=canvas.scheme_css(),
        title=escape(f"{run.folder.name}: calibration report"),
        run=escape(str(run.folder)),
        headline=escape(message[:1].upper() + message[1:]) + ".",
        lead=_lead(record),
        numbers=_numbers(record),
        candidates=candidate_table(record, run.test),
        choices="" if run.metrics is None else choices_table(run.metrics),
        tasks=tasks_table(record),
        notes="".join(f'<p class="note">{escape(note)}</p>' for note in run.notes),
        figures=_figures(run),
        masks=mask_table(record) if record.get("sweep") else "",
        settings=_settings(run),
    )


def _lead(record: Mapping[str, Any]) -> str:
    """What is in use and what it is worth, then what the calibration warned of."""
    used = record["used"]
    if any(used["strengths"]):
        name, strengths = recipe_name(used["rules"]), strengths_text(used["strengths"])
        text = f"In use: <strong>{escape(name)}</strong>, strength μ = <strong>{strengths}</strong>"
        text += f"{_intervals(used)}. "
        text += f"Held-out gain over the tuned model: <strong>{gain_text(used['gain'])}</strong> nats per token"
        text += " (mean and 95 % interval; above zero is better)."
    else:
        text = "In use: <strong>the tuned model as it is</strong>, strength μ = <strong>0</strong>. The strength "
        text += f"found, μ = {strengths_text(record['strengths'])}{_intervals(record)} for "
        text += f"{escape(recipe_name(record['rules']))}, "
        text += f"has a held-out gain of {gain_text(record['gain_over_tuned'])} nats per token."
    if record["rules"] != ["Temperature"]:
        text += f" Over the sharpened control, the strength found gains {gain_text(record['gain_over_control'])}."
    warning = record.get("warning")
    return f"<p>{text}</p>" + (f'<p class="warning">{escape(str(warning))}</p>' if warning else "")


def _intervals(part: Mapping[str, Any]) -> str:
    """The intervals of strengths behind them; records from before there were any have none."""
    text = intervals_text(part.get("intervals"))
    return f" {text}" if text else ""


def _numbers(record: Mapping[str, Any]) -> str:
    """The few numbers to look at first."""
    found = next((candidate for candidate in record["candidates"] if in_use(candidate, record)), None)
    nll = found["nll"] if found else record["nll_tuned"]
    shown = (
        ("NLL, base model", f"{record['nll_base']:.4f}", "nats per token"),
        ("NLL, tuned", f"{record['nll_tuned']:.4f}", "nats per token"),
        ("NLL, as used", f"{nll:.4f}", "same tokens"),
        ("KL to the base", short(record["kl_to_reference"]), "nats per token"),
        ("Labels inside the mask", f"{record['coverage']:.1%}", mask_text(record["alpha"])),
        ("Tokens in the mask", f"{record['mask_size']:.1f}", "per position, mean"),
        ("Calibration tokens", f"{record['tokens']}", f"of {record['examples']} examples"),
    )
    cells = "".join(
        f"<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>" for name, value, note in shown
    )
    return f'<dl class="numbers">{cells}</dl>'


def _figures(run: Run) -> str:
    drawn = calibration_figures(run.record, table=run.table, rules=run.rules, history=run.history)
    parts = []
    for name, figure in drawn.items():
        heading, reading = about_figure(name, run.record, run.history)
        parts.append(
            f"<figure><h3>{escape(heading)}</h3>{canvas.svg(figure)}"
            f'<figcaption class="read">{escape(reading)}</figcaption></figure>'
        )
    return "\n".join(parts)


def _settings(run: Run) -> str:
    record = run.record
    rows = {"rules": ", ".join(record["rules"]), "features": ", ".join(record.get("features") or []) or None}
    rows |= {name: record.get(name) for name in _SETTINGS}
    rows |= {"strengths found": strengths_text(record["strengths"]) + _intervals(record)}
    text = pairs_table(rows)
    if record.get("versions"):
        text += "<h3>Library versions at calibration</h3>" + pairs_table(record["versions"])
    if run.config:
        text += f"<details><summary>config.yaml</summary><pre>{escape(run.config)}</pre></details>"
    return text
