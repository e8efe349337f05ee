"""The verdict: which of steering, control and tuned model the gains support, and why."""

from collections.abc import Sequence
from typing import Literal

from svd_lightning.metrics import Gain
from svd_lightning.records import CalibrationRecord, DecodingRecord, Intervals, UsedRecord
from svd_lightning.steering import SteeringRule, rule_name

Verdict = Literal["steer", "control", "tuned"]
"""What to use: the steering, sharpening alone, or the tuned model as it is."""


def decide(over_tuned: Gain, over_control: Gain, control: Gain, *, is_control: bool) -> Verdict:
    """Return the furthest of `tuned`, `control` and `steer` whose held-out gain is sure.

    Args:
        over_tuned, over_control: gains of the steering.
        control: gain of the control over the tuned model.
        is_control: whether the steering is the control itself.
    """
    if over_tuned.sure and (over_control.sure or is_control):
        return "steer"
    return "control" if control.sure else "tuned"


def explain(verdict: Verdict, *, guard: bool) -> str:
    """Return the verdict in words."""
    finding = {
        "steer": "steering helps: the held-out gain over the tuned model and over sharpening is above zero",
        "control": "steering does not help here beyond sharpening: its gain over the control may be zero",
        "tuned": "steering does not help here: its held-out gain over the tuned model may be zero",
    }[verdict]
    if verdict != "steer" and not guard:
        return f"{finding}; guard is off, so the strengths found are used all the same"
    fallbacks = {"control": "; the control is used", "tuned": "; the tuned model is used as it is"}
    return finding + fallbacks.get(verdict, "")


def used_record(
    rules: Sequence[SteeringRule],
    strengths: Sequence[float] | None = None,
    intervals: Intervals | None = None,
    gain: Gain = Gain(0.0, 0.0, 0.0),  # noqa: B008  is frozen
    fold_strengths: list[list[float]] | None = None,
) -> UsedRecord:
    """Return the record's `used` entry: rules, strengths, intervals and gain.

    Args:
        rules: the directions.
        strengths: μ, one per rule; None for the tuned model as it is, strengths of 0.
        intervals: of the strengths.
        gain: over the tuned model.
        fold_strengths: found without each fold, [F][k]; None where the strengths are not fitted.
    """
    used: UsedRecord = {
        "rules": [rule_name(rule) for rule in rules],
        "strengths": [0.0] * len(rules) if strengths is None else list(strengths),
        "intervals": intervals,
        "gain": gain.plain(),
    }
    return used if fold_strengths is None else {**used, "fold_strengths": fold_strengths}


def withhold(record: CalibrationRecord, check: DecodingRecord) -> CalibrationRecord:
    """Return the record with a decoding check in it; where steering is surely worse, the tuned model is used.

    Without the guard only the message says what is worse, and the strengths stay in use.

    Args:
        record: what `calibrate` returned.
        check: of the steering that the record uses.
    """
    checked: CalibrationRecord = {**record, "decoding": check}
    if not check["worse"]:
        return checked
    fell = "; ".join(_worse(name, check) for name in check["worse"])
    found = f"decoded freely it is surely worse than the tuned model ({fell})"
    if not record["guard"]:
        used = "; guard is off, so it is used all the same" if record["verdict"] == "steer" else ""
        return {**checked, "message": f"{record['message']}; but {found}{used}"}
    message = f"steering is not used: {found}, whatever the likelihood says; the tuned model is used as it is"
    tuned = _tuned(record["rules"], message)
    tasks = [{**task, **tuned, "judged_by": "pool"} for task in record["tasks"]]
    return {**checked, **tuned, "tasks": tasks}  # type: ignore[typeddict-item]


def _worse(name: str, check: DecodingRecord) -> str:
    tuned, steered = check["metrics"][name]["tuned"], check["metrics"][name]["steered"]
    values = f"{name.replace('_', ' ')} {tuned['value']:.3g} → {steered['value']:.3g}"
    return f"{values}, gain {steered['gain']:+.3g} [{steered['low']:+.3g}, {steered['high']:+.3g}]"


def _tuned(rules: Sequence[str], message: str) -> dict[str, object]:
    """Return the fields of a record that say so where the tuned model is used."""
    used = {
        "rules": list(rules),
        "strengths": [0.0] * len(rules),
        "intervals": None,
        "gain": Gain(0.0, 0.0, 0.0).plain(),
    }
    return {"verdict": "tuned", "message": message, "used": used}
