"""The summary as a table in the terminal."""

from rich.table import Table

from svd_lightning.commands.judge.measures import JUDGED, MEASURES
from svd_lightning.records import GainRecord, JudgedPart, Measure

_NAMES: dict[Measure, str] = {
    "exact_match": "exact match",
    "rouge_l": "ROUGE-L",
    "accuracy": "accuracy",
    "truthful": "%Truth",
    "informative": "%Info",
    "truthful_informative": "%Truth×Info",
}


def summary_table(title: str, part: JudgedPart, *, label: str, about: str) -> Table:
    """Make a table: a row per measure, a column per system, then the gains over the tuned model.

    Args:
        title: what was measured.
        part: the whole summary, or that of one task.
        label: who judged, shown after the names of the judged measures.
        about: a sentence on the judge.
    """
    systems, gains = part["systems"], part["gains"]
    shown = [name for name in MEASURES if any(system[name] is not None for system in systems.values())]
    judged = any(system["judged"] for system in systems.values())
    caption = _caption(part, about) if judged else "No answer was judged."
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    table.add_column("percent")
    for name in systems:
        table.add_column(name, justify="right")
    for name in gains:
        table.add_column(f"{name} − tuned, 95 %", justify="right", no_wrap=True)
    for name in shown:
        table.add_row(
            f"{_NAMES[name]} ({label})" if name in JUDGED else _NAMES[name],
            *(_percent(system[name]) for system in systems.values()),
            *(_gain(gain[name]) for gain in gains.values()),
        )
    return table


def _caption(part: JudgedPart, about: str) -> str:
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
