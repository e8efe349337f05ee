"""Numbers and recipes as text."""

import math
from collections.abc import Mapping, Sequence

from svd_lightning.records import (
    CHOICE_NLL,
    IN_NATS,
    CalibrationRecord,
    CandidateRecord,
    CorrectionRecord,
    FiguresRecord,
    GainRecord,
    Intervals,
    MetricRecord,
    ScoredRecord,
    TaskRecord,
    UsedRecord,
    fits_choice,
)
from svd_lightning.steering import CORRECTIONS

Strengths = UsedRecord | TaskRecord | CalibrationRecord
"""Records with strengths; old ones lack the intervals."""

CHOICE_METRICS = (CHOICE_NLL, "MC1", "MC2", "MC3", "accuracy", "accuracy_normalised")
"""The metrics of `test_metrics.json` that tables show."""


def recipe_name(rules: Sequence[str], strengths: Sequence[float]) -> str:
    """Return the rules of a recipe, or what the control does at its strength.

    >>> recipe_name(["KLGradient", "NaturalGradient"], [1.0, 2.0]), recipe_name(["Temperature"], [-0.4])
    ('KLGradient + NaturalGradient', 'flattened (control)')
    """
    if list(rules) != ["Temperature"]:
        return " + ".join(rules)
    return "flattened (control)" if strengths[0] < 0.0 else "sharpened (control)"


def answers_text(record: CalibrationRecord) -> str:
    """Say how the questions were answered, held out; "" where there are none."""
    about, gain = record.get("questions"), record.get("gain_mc1")
    if not about or not gain:
        return ""
    fitted = "the choice among the options" if fits_choice(record) else "the likelihood of the right answers"
    low, high = 100 * gain["low"], 100 * gain["high"]
    return (
        f"{about['count']} questions, held out: MC1 {about['mc1_tuned']:.1%} tuned, {about['mc1_steered']:.1%} "
        f"steered by the strengths found ({100 * gain['mean']:+.1f} [{low:+.1f}, {high:+.1f}] points), "
        f"{about['mc1_control']:.1%} by the control; {about['chance']:.1%} by chance. What is fitted: {fitted}."
    )


def strengths_text(strengths: Sequence[float]) -> str:
    """Return strengths to three digits.

    >>> strengths_text([0.012345, 81.26])
    '0.0123, 81.3'
    """
    return ", ".join(short(strength) for strength in strengths)


def intervals_text(intervals: Intervals | None) -> str:
    """Return the intervals of strengths; "" where they have none.

    >>> intervals_text([[-0.012345, 81.26], None]), intervals_text(None)
    ('[-0.0123, 81.3], (no interval)', '')
    """
    return ", ".join(map(_interval_text, intervals or []))


def with_intervals(part: Strengths) -> list[str]:
    """Return each strength with its interval, or a note that it has none; old records show strengths alone.

    >>> with_intervals({"strengths": [1.5, 2.0], "intervals": [[1.0, 2.0], None]})
    ['1.5 [1, 2]', '2 (no interval)']
    >>> with_intervals({"strengths": [1.5, 2.0]})
    ['1.5', '2']
    """
    strengths = [short(strength) for strength in part["strengths"]]
    if "intervals" not in part:
        return strengths
    if not part["intervals"]:
        return [f"{text} {_interval_text(None)}" for text in strengths]
    return [f"{text} {_interval_text(one)}" for text, one in zip(strengths, part["intervals"], strict=True)]


def named_strengths(part: UsedRecord | CalibrationRecord) -> str:
    """Return each rule with its strength and interval.

    >>> named_strengths({"rules": ["KLGradient"], "strengths": [1.5], "intervals": [[1.0, 2.0]]})
    'KLGradient 1.5 [1, 2]'
    """
    return ", ".join(map(" ".join, zip(part["rules"], with_intervals(part), strict=True)))


def correction_words(name: str) -> str:
    """Return what tables call a correction.

    >>> correction_words("CalibratedHead")
    'calibrated head'
    """
    return CORRECTIONS[name].words if name in CORRECTIONS else name


def correction_fit(one: CorrectionRecord) -> tuple[str, str]:
    """Return how a correction was fitted, and the number or the count of what was fitted.

    >>> correction_fit({"name": "AdapterScale", "tokens": 0, "settings": {"scale": 1.5625}})
    ('search', '× 1.56')
    >>> correction_fit({"name": "Prior", "tokens": 6, "settings": {"strength": 1.5, "kappa": 0.1}})
    ('κ 0.1', '1.5')
    >>> correction_fit({"name": "LabelBias", "tokens": 6, "settings": {"ridge": 0.01}})
    ('ridge 0.01', '6 tokens')
    """
    settings = one.get("settings", {})  # a record of earlier days has none
    if "scale" in settings:
        return "search", f"× {settings['scale']:.3g}"
    if "kappa" in settings:
        return f"κ {settings['kappa']:g}", f"{settings['strength']:.3g}"
    return f"ridge {settings['ridge']:.2g}" if settings else "", f"{one['tokens']} tokens"


def drift_text(one: ScoredRecord) -> str:
    """Return a candidate's drift; "" where a record has none.

    >>> drift_text({"drift": 0.01234})
    '0.0123'
    """
    return f"{one['drift']:.4f}" if "drift" in one else ""


def cost_text(one: ScoredRecord) -> str:
    """Return what a candidate costs at decoding: measured, or which models run; "" where a record says neither.

    >>> cost_text({"cost": 1.377, "reads_base": True}), cost_text({"reads_base": False}), cost_text({})
    ('1.4', 'tuned alone', '')
    """
    if "cost" in one:
        return f"{one['cost']:.1f}"
    if "reads_base" not in one:
        return ""
    return "tuned and base" if one["reads_base"] else "tuned alone"


def task_used(task: TaskRecord, *, guard: bool) -> str:
    """Return what a task is decoded with, and whether the verdict over all examples decided it.

    >>> task_used({"verdict": "control", "judged_by": "pool", "used": {"strengths": [-0.2]}}, guard=True)
    'flattening, as over all'
    """
    verdict = task["verdict"] if guard else "steer"
    control = "flattening" if task["used"]["strengths"][0] < 0.0 else "sharpening"
    correction = correction_words(task["used"].get("correction", ""))
    used = {"steer": "steering", "control": control, "correct": correction, "tuned": "tuned model"}[verdict]
    return used if task["judged_by"] == "task" else f"{used}, as over all"


def prior_text(examples: float) -> str:
    """Say how many of a task's own examples the strengths of all examples weigh.

    >>> prior_text(32.0)
    "The strengths of all examples weigh as much as 32 of a task's own."
    """
    if examples == math.inf:
        return "The tasks do not differ: all have the strengths of all examples."
    return f"The strengths of all examples weigh as much as {examples:g} of a task's own."


def short(value: float) -> str:
    """Return a number to three digits, without an exponent below a million.

    >>> short(-0.0123456), short(31640.0), short(2.5e7), short(0.0)
    ('-0.0123', '31640', '2.5e+07', '0')
    """
    return f"{value:.0f}" if 1e3 <= abs(value) < 1e6 else f"{value:.3g}"


def mask_text(alpha: float | None) -> str:
    """Return the mask's α, or "no mask"."""
    return "no mask" if alpha is None else f"α = {alpha:g}"


def gain_text(gain: GainRecord) -> str:
    """Return a gain in nats per token with its interval."""
    if not math.isfinite(gain["low"]):
        return "not known"
    return f"{gain['mean']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]"


def metric_gain_text(entry: MetricRecord) -> str:
    """Return a metric's gain with its interval; "" where it has none, or for the tuned model itself.

    >>> metric_gain_text({"value": 1.0, "gain": 0.0, "low": 0.0, "high": 0.0})
    ''
    """
    low, high = entry.get("low"), entry.get("high")
    if low is None or high is None or low == high == 0.0:
        return ""
    return gain_text({"mean": entry["gain"], "low": low, "high": high})


def choice_text(metric: str, entry: MetricRecord) -> str:
    """Return one of `CHOICE_METRICS` with its gain and interval: nats, or percent and percentage points.

    >>> entry = {"value": 0.5, "gain": 0.01, "low": -0.02, "high": 0.04}
    >>> choice_text("MC1", entry), choice_text("choice_NLL", entry)
    ('50.0% +1.0 [-2.0, +4.0]', '0.5000 +0.0100 [-0.0200, +0.0400]')
    """
    return f"{choice_value(metric, entry)} {choice_gain(metric, entry)}".strip()


def choice_value(metric: str, entry: MetricRecord) -> str:
    """Return the value alone."""
    return f"{entry['value']:.4f}" if metric in IN_NATS else f"{entry['value']:.1%}"


def choice_gain(metric: str, entry: MetricRecord) -> str:
    """Return the gain with its interval; "" where it has none."""
    if metric in IN_NATS:
        return metric_gain_text(entry)
    low, high = entry.get("low"), entry.get("high")
    if low is None or high is None:
        return ""
    return f"{100 * entry['gain']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def choice_head(metric: str) -> str:
    """Return what a table calls the metric.

    >>> choice_head("choice_NLL"), choice_head("accuracy_normalised")
    ('choice NLL', 'accuracy per token')
    """
    return metric.replace("_normalised", " per token").replace("_", " ")


def decoded_texts(name: str, entries: Mapping[str, MetricRecord]) -> tuple[str, ...]:
    """Return a decoding measure of the tuned and of the steered model, and its gain with the interval.

    >>> steered = {"value": 0.5, "gain": -0.25, "low": -0.5, "high": 0.0}
    >>> decoded_texts("repeated_trigrams", {"tuned": {"value": 0.25}, "steered": steered})
    ('25.0%', '50.0%', '-25.0 [-50.0, +0.0]')
    >>> decoded_texts("length_error", {"tuned": {"value": 4.0}, "steered": {"value": 6.5, "low": None}})
    ('4.0', '6.5', 'not known')
    """
    tuned, steered = entries["tuned"], entries["steered"]
    scale, unit = (1, "") if name == "length_error" else (100, "%")
    values = (f"{scale * entry['value']:.1f}{unit}" for entry in (tuned, steered))
    if (low := steered.get("low")) is None or (high := steered.get("high")) is None:
        return *values, "not known"
    return *values, f"{scale * steered['gain']:+.1f} [{scale * low:+.1f}, {scale * high:+.1f}]"


def in_use(candidate: CandidateRecord, used: UsedRecord | FiguresRecord) -> bool:
    """Return whether decoding uses this candidate."""
    return candidate["rules"] == used["rules"] and candidate["strengths"] == used["strengths"]


def _interval_text(interval: Sequence[float] | None) -> str:
    return "(no interval)" if interval is None else f"[{short(interval[0])}, {short(interval[1])}]"
