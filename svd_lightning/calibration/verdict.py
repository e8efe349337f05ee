"""The verdict: which of steering, control and tuned model the gains support, and why, in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from typing_extensions import TypedDict

from svd_lightning.metrics import Gain
from svd_lightning.records import CalibrationRecord, DecodingRecord, GainsRecord, Intervals, UsedRecord
from svd_lightning.steering import SteeringRule, rule_name

Verdict = Literal["steer", "correct", "control", "tuned"]
"""What to use: the steering, a correction, the control, or the tuned model as it is."""

AS_IT_IS = "; the tuned model is used as it is"
"""The end of a message where nothing else is used."""


class SwitchedOff(TypedDict):
    """The fields of a record, or of a task's, that say what is used and why."""

    verdict: Verdict
    message: str
    used: UsedRecord


@dataclass(frozen=True)
class Evidence:
    """Paired held-out gains over the tuned model, with 95 % intervals."""

    gain: Gain
    """Of what is fitted: nats per token, or nats per question where the choice among options is fitted."""
    likelihood: Gain
    """Of all label tokens, in nats per token."""
    mc1: Gain | None
    """Of the share of questions answered rightly; None where there are no options."""

    def plain(self) -> GainsRecord:
        """Return it as JSON has it."""
        return {
            "gain_over_tuned": self.gain.plain(),
            "gain_likelihood": self.likelihood.plain(),
            "gain_mc1": None if self.mc1 is None else self.mc1.plain(),
        }

    @property
    def harm(self) -> str | None:
        """What it surely makes worse, in words: the task's own metric or the likelihood; None for neither."""
        if self.mc1 is not None and self.mc1.surely_lost:
            return "answers fewer questions rightly (MC1)"
        return "makes the label tokens less likely" if self.likelihood.surely_lost else None

    @property
    def helps(self) -> bool:
        """Whether the gain is sure, and nothing is surely worse."""
        return self.gain.sure and self.harm is None


def decide(steering: Evidence, over_control: Gain, control: Evidence, *, is_control: bool) -> Verdict:
    """Return the furthest of `tuned`, `control` and `steer` whose held-out gain is sure.

    What surely lowers the metric of the task, or the likelihood of all label tokens, is left out. A later check,
    as one of free decoding, may only lower the verdict.

    Args:
        steering, control: gains over the tuned model.
        over_control: gain of the steering over the control.
        is_control: whether the steering is the control itself.
    """
    if steering.helps and (over_control.sure or is_control):
        return "steer"
    return "control" if control.helps else "tuned"


def explain(
    verdict: Verdict,
    steering: Evidence,
    over_control: Gain,
    control: Evidence,
    *,
    temperature: float,
    guard: bool,
    examples: int,
) -> str:
    """Return the verdict in words, and on how many examples it rests.

    Args:
        verdict, steering, over_control, control: as `decide` has them.
        temperature: strength of the control.
        guard: whether decoding follows the verdict.
        examples: how many the intervals rest on.
    """
    word, rests = temperature_word(temperature), f" ({examples} calibration examples)"
    if verdict == "steer":
        return f"steering helps: the held-out gain over the tuned model and over {word} is above zero{rests}"
    if not steering.gain.sure:
        finding = "steering does not help here: its held-out gain over the tuned model is not surely above zero"
    elif steering.harm:
        finding = f"steering is not used: it surely {steering.harm}, whatever else it gains"
    else:
        finding = f"steering does not help here beyond {word}: its gain over the control is not surely above zero"
    finding += rests
    if not guard:
        return f"{finding}; guard is off, so the strengths found are used all the same"
    if verdict == "control":
        return f"{finding}; the control ({word}) is used"
    lost = f"; {word} surely {control.harm}" if control.gain.sure and control.harm else ""
    return f"{finding}{lost}{AS_IT_IS}"


def temperature_word(strength: float) -> str:
    """Return what a temperature of this strength does.

    >>> temperature_word(0.2), temperature_word(-0.2)
    ('sharpening', 'flattening')
    """
    return "flattening" if strength < 0.0 else "sharpening"


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


def in_use(record: CalibrationRecord) -> str | None:
    """Return what a record uses, None for the tuned model as it is.

    It is the name of a correction, or of a recipe that is not the configured one; else `steer` or `control`.
    """
    verdict, used = record["verdict"], record["used"]
    return used.get("correction") or used.get("recipe") or (verdict if verdict in ("steer", "control") else None)


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
    name = record["used"].get("correction") or record["used"].get("recipe") or "steering"
    message = f"{name} is not used: {found}, whatever the likelihood says{AS_IT_IS}"
    tuned = switched_off(record["rules"], message)
    tasks = [{**task, **tuned, "judged_by": "pool"} for task in record["tasks"]]
    return {**checked, **tuned, "tasks": tasks}  # type: ignore[typeddict-item]


def switched_off(rules: Sequence[str], message: str) -> SwitchedOff:
    """Return the fields of a record, or of a task's, that say that the tuned model is used, and why."""
    gain = Gain(0.0, 0.0, 0.0).plain()
    used: UsedRecord = {"rules": list(rules), "strengths": [0.0] * len(rules), "intervals": None, "gain": gain}
    return {"verdict": "tuned", "message": message, "used": used}


def _worse(name: str, check: DecodingRecord) -> str:
    tuned, steered = check["metrics"][name]["tuned"], check["metrics"][name]["steered"]
    values = f"{name.replace('_', ' ')} {tuned['value']:.3g} → {steered['value']:.3g}"
    return f"{values}, gain {steered['gain']:+.3g} [{steered['low']:+.3g}, {steered['high']:+.3g}]"
