"""The report of a run as one HTML page without scripts or network."""

import math
from collections.abc import Iterator
from pathlib import Path

from svd_lightning.calibration import noise_in_words
from svd_lightning.records import CalibrationRecord, UsedRecord, gain_unit
from svd_lightning.report import canvas
from svd_lightning.report.figures import calibration_figures
from svd_lightning.report.folder import Run
from svd_lightning.report.render import ReportTable, templates
from svd_lightning.report.tables import candidate_table, choice_tables, decoding_table, mask_table, task_table
from svd_lightning.report.words import (
    answers_text,
    correction_words,
    gain_text,
    in_use,
    intervals_text,
    mask_text,
    recipe_name,
    short,
    strengths_text,
)

_SETTINGS = ("estimator", "guard", "alpha", "penalty", "tokens", "examples", "epoch", "global_step")


def page(run: Run) -> str:
    """Return the whole report of a run (`load_run`) as HTML."""
    record = run.record
    found = _strengths(record)
    drawn = calibration_figures(record, table=run.table, rules=run.rules, history=run.history)
    template = templates(Path(__file__).parent).get_template("page.html")
    return template.render(
        run=run,
        record=record,
        gain_text=gain_text,
        mask_text=mask_text,
        recipe_name=recipe_name,
        unit=gain_unit(record),
        answers=answers_text(record),
        short=short,
        found=found,
        used=_strengths(record["used"]),
        steered=any(record["used"]["strengths"]),
        corrected=correction_words(record["used"].get("correction", "")),
        outside_forbidden=record["penalty"] == -math.inf,
        numbers=_numbers(record),
        noise=noise_in_words(record["noise"]) if "noise" in record else None,
        candidates=candidate_table(run.record, run.test),
        tables=list(_tables(run)),
        figures=[(name, canvas.svg(figure)) for name, figure in drawn.items()],
        masks=mask_table(record) if record.get("sweep") else None,
        settings=_settings(record, found),
    )


def _tables(run: Run) -> Iterator[ReportTable]:
    if run.metrics is not None:
        yield from choice_tables(run.metrics)
    if "decoding" in run.record:
        yield decoding_table(run.record["decoding"])
    if run.record.get("tasks"):
        yield task_table(run.record)


def _numbers(record: CalibrationRecord) -> tuple[tuple[str, str, str], ...]:
    """Return the few numbers to look at first: name, value and unit."""
    corrections = {one["name"]: one for one in record.get("corrections", [])}
    recipe = next((candidate for candidate in record["candidates"] if in_use(candidate, record["used"])), None)
    used = corrections.get(record["used"].get("correction", ""), recipe)
    return (
        ("NLL, base model", f"{record['nll_base']:.4f}", "nats per token"),
        ("NLL, tuned", f"{record['nll_tuned']:.4f}", "nats per token"),
        ("NLL, as used", f"{used['nll'] if used else record['nll_tuned']:.4f}", "same tokens"),
        ("KL to the base", short(record["kl_to_reference"]), "nats per token"),
        ("Labels inside the mask", f"{record['coverage']:.1%}", mask_text(record["alpha"])),
        ("Tokens in the mask", f"{record['mask_size']:.1f}", "per position, mean"),
        ("Calibration tokens", str(record["tokens"]), f"of {record['examples']} examples"),
    )


def _strengths(part: UsedRecord | CalibrationRecord) -> str:
    return f"{strengths_text(part['strengths'])} {intervals_text(part.get('intervals'))}".strip()


def _settings(record: CalibrationRecord, found: str) -> dict[str, object]:
    return {
        "rules": ", ".join(record["rules"]),
        "features": ", ".join(record.get("features") or []) or None,
        **{name: record.get(name) for name in _SETTINGS},
        "strengths found": found,
    }
