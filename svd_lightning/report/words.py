"""Numbers and recipes as readers see them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

CHOICE_METRICS = ("MC1", "MC2", "MC3", "accuracy", "accuracy_normalised")
"""What is shown of `test_metrics.json`."""

CONTROL_NAME = "sharpened (control)"


def recipe_name(rules: Sequence[str]) -> str:
    """The rules of a recipe, or what it is called.

    >>> recipe_name(["KLGradient", "NaturalGradient"])
    'KLGradient + NaturalGradient'
    """
    return CONTROL_NAME if list(rules) == ["Temperature"] else " + ".join(rules)


def strengths_text(strengths: Sequence[float]) -> str:
    """Strengths to three digits.

    >>> strengths_text([0.012345, 81.26])
    '0.0123, 81.3'
    """
    return ", ".join(short(strength) for strength in strengths)


def intervals_text(intervals: Sequence[Sequence[float]] | None) -> str:
    """The intervals of strengths; nothing where they have none.

    >>> intervals_text([[-0.012345, 81.26], [1.0, 2.0]]), intervals_text(None)
    ('[-0.0123, 81.3], [1, 2]', '')
    """
    return ", ".join(f"[{short(low)}, {short(high)}]" for low, high in intervals or [])


def with_interval(text: str, interval: Sequence[float] | None) -> str:
    """A strength with its interval, or that it has none.

    >>> with_interval("1.5", [1.0, 2.0]), with_interval("1.5", None)
    ('1.5 [1, 2]', '1.5 (no interval)')
    """
    return f"{text} {'(no interval)' if interval is None else intervals_text([interval])}"


def with_intervals(part: Mapping[str, Any]) -> list[str]:
    """Each strength with its interval, without any where none was looked for.

    >>> with_intervals({"strengths": [1.5, 2.0], "intervals": [[1.0, 2.0], None]})
    ['1.5 [1, 2]', '2 (no interval)']
    >>> with_intervals({"strengths": [1.5, 2.0]})
    ['1.5', '2']
    """
    strengths = [short(strength) for strength in part["strengths"]]
    if part.get("intervals") is None:
        return strengths
    return [with_interval(text, one) for text, one in zip(strengths, part["intervals"], strict=True)]


def task_used(task: Mapping[str, Any], *, guard: bool) -> str:
    """What a task is decoded with, and whether all examples said so.

    >>> task_used({"verdict": "control", "judged_by": "pool"}, guard=True)
    'sharpening, as over all'
    """
    verdict = task["verdict"] if guard else "steer"
    used = {"steer": "steering", "control": "sharpening", "tuned": "tuned model"}[verdict]
    return used if task["judged_by"] == "task" else f"{used}, as over all"


def prior_text(examples: float) -> str:
    """How much of its own a task has, by how many examples the strengths of all of them weigh.

    >>> prior_text(32.0)
    "The strengths of all examples weigh as much as 32 of a task's own."
    """
    if examples == math.inf:
        return "The tasks do not differ: all have the strengths of all examples."
    return f"The strengths of all examples weigh as much as {examples:g} of a task's own."


def short(value: float) -> str:
    """Three digits, without an exponent below a million.

    >>> short(-0.0123456), short(31640.0), short(2.5e7), short(0.0)
    ('-0.0123', '31640', '2.5e+07', '0')
    """
    return f"{value:.0f}" if 1e3 <= abs(value) < 1e6 else f"{value:.3g}"


def mask_text(alpha: float | None) -> str:
    """The mask's α, or that there is none."""
    return "no mask" if alpha is None else f"α = {alpha:g}"


def gain_text(gain: Mapping[str, float]) -> str:
    """A gain in nats per token with its interval."""
    if not math.isfinite(gain["low"]):
        return "not known"
    return f"{gain['mean']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]"


def metric_name(metric: str) -> str:
    """A metric of choices; those by the mean log-probability say so."""
    return metric.replace("_normalised", " per token")


def share_text(entry: Mapping[str, Any]) -> str:
    """A share in percent, with its gain and interval in percentage points.

    >>> share_text({"value": 0.5, "gain": 0.01, "low": -0.02, "high": 0.04})
    '50.0% +1.0 [-2.0, +4.0]'
    """
    if entry.get("low") is None:
        return f"{entry['value']:.1%}"
    gain, low, high = (100 * entry[name] for name in ("gain", "low", "high"))
    return f"{entry['value']:.1%} {gain:+.1f} [{low:+.1f}, {high:+.1f}]"


def chosen_intervals(candidate: Mapping[str, Any], record: Mapping[str, Any]) -> list[list[float]] | None:
    """The intervals of a candidate's strengths where it was chosen, or is in use: of those a reader asks.

    None in records from before there were any.
    """
    found = candidate["rules"] == record.get("rules") and candidate["estimator"] == record.get("estimator")
    intervals: list[list[float]] | None = candidate.get("intervals")
    return intervals if found or in_use(candidate, record) else None


def in_use(candidate: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    """Whether a candidate is what the record's run decodes with."""
    used = record.get("used", record)
    return candidate["rules"] == used["rules"] and candidate["strengths"] == used["strengths"]
