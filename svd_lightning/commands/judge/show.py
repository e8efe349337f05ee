"""The summary as a table."""

from svd_lightning.commands.judge.measures import JUDGED, MEASURES
from svd_lightning.judged import JudgedPart, JudgeRecord, Measure
from svd_lightning.records import GainRecord
from svd_lightning.report import ReportTable, Row

_NAMES: dict[Measure, str] = {
    "exact_match": "exact match",
    "rouge_l": "ROUGE-L",
    "accuracy": "accuracy",
    "truthful": "%Truth",
    "informative": "%Info",
    "truthful_informative": "%Truth×Info",
}


def summary_table(title: str, part: JudgedPart, judge: JudgeRecord) -> ReportTable:
    """Make a table: a row per measure, a column per system, then the gains over the tuned model.

    Args:
        title: what was measured.
        part: the whole summary, or that of one task.
        judge: shown after the names of the measures that it judged, and below the table.
    """
    systems, gains = part["systems"].values(), part["gains"]
    heads = ("percent", *part["systems"], *(f"gain, {name} − tuned" for name in gains))
    rows = [
        (
            f"{_NAMES[name]} ({judge['label'] or ''})" if name in JUDGED else _NAMES[name],
            *(_percent(system[name]) for system in systems),
            *(_gain(gain[name]) for gain in gains.values()),
        )
        for name in MEASURES
        if any(system[name] is not None for system in systems)
    ]
    judged = any(system["judged"] for system in systems)
    note = _note(part, judge["about"]) if judged else "No answer was judged."
    notes = ("Gains with paired 95 % intervals.", note) if gains else (note,)
    return ReportTable(title, heads, tuple(map(Row, rows)), notes)


def _note(part: JudgedPart, about: str) -> str:
    abstained = "; ".join(
        f"{name} {system['abstained']['truthful']} and {system['abstained']['informative']}"
        for name, system in part["systems"].items()
    )
    answers = max(system["judged"] for system in part["systems"].values())
    return f"{about}. Abstained, of {answers}, on truth and on information: {abstained}; left out of the shares."


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _gain(gain: GainRecord | None) -> str:
    if gain is None:
        return "not known"
    return f"{100 * gain['mean']:+.1f} [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]"
