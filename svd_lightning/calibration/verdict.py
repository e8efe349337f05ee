"""What the guard makes of the gains: the recipe that will be used, and why."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from svd_lightning.metrics import Gain
from svd_lightning.records import Intervals
from svd_lightning.steering import Steering, rule_name


def judge(over_tuned: Gain, over_control: Gain, control: Gain, *, is_control: bool) -> str:
    """`steer`, `control` or `tuned`: the furthest step whose held-out gain is sure."""
    if over_tuned.sure and (over_control.sure or is_control):
        return "steer"
    return "control" if control.sure else "tuned"


def explain(verdict: str, *, guard: bool) -> str:
    """The verdict in words."""
    told = {
        "steer": "steering helps: the held-out gain over the tuned model and over sharpening is above zero",
        "control": "steering does not help here beyond sharpening: its gain over the control may be zero",
        "tuned": "steering does not help here: its held-out gain over the tuned model may be zero",
    }[verdict]
    done = {"steer": "", "control": "; the control is used", "tuned": "; the tuned model is used as it is"}[
        verdict
    ]
    return told + (done if guard else "; guard is off, so the strengths found are used all the same" * bool(done))


def in_use(
    rules: Sequence[str], strengths: Sequence[float], intervals: Intervals | None, gain: Gain
) -> dict[str, Any]:
    """The recipe in use, in plain numbers and strings."""
    return {
        "rules": list(rules),
        "strengths": list(strengths),
        "intervals": intervals,
        "gain": asdict(gain),
    }


def tuned_in_use(steering: Steering) -> dict[str, Any]:
    """The tuned model as it is: strengths of 0, which are set and have no interval."""
    names = [rule_name(rule) for rule in steering.directions]
    return in_use(names, [0.0] * len(names), None, Gain(0.0, 0.0, 0.0))
