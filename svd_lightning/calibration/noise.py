"""What rounding noise means for a calibration: a warning where there is much of it, and a steering refused."""

from svd_lightning.calibration.advice import too_small
from svd_lightning.calibration.verdict import AS_IT_IS, switched_off
from svd_lightning.records import CalibrationRecord, NoiseRecord

MUCH = 0.1
"""Noise above this share of the signal is worth a warning."""
_REMEDY = "write --model.backbone.dtype float32, or train on until the signal is larger"


def add_noise(record: CalibrationRecord, noise: NoiseRecord) -> CalibrationRecord:
    """Return the record with the noise, and what follows from it.

    Noise above a tenth of the signal brings a warning. At the signal itself the direction is mostly rounding,
    and the guard uses the tuned model, whatever was gained. `Temperature` alone reads no base, and stays.

    Args:
        record: of a calibration.
        noise: as `scoring.NoiseMeter` measured it.
    """
    new: CalibrationRecord = {**record, "noise": noise}
    if record["rules"] == ["Temperature"] or noise["noise"] <= MUCH * noise["signal"]:
        return new
    new["warning"] = "; ".join(filter(None, (record["warning"], f"{noise_in_words(noise)}; {_REMEDY}")))
    steering = any(part["verdict"] == "steer" for part in (record, *record["tasks"]))
    if noise["noise"] < noise["signal"]:
        return new
    if not record["guard"]:
        if steering:
            new["message"] += "; but its direction is mostly rounding; guard is off, so it is used all the same"
        return new
    why = f"steering is not used: its direction is mostly rounding{AS_IT_IS}"
    tuned = switched_off(record["rules"], why)
    tasks = [{**task, **tuned} if task["verdict"] == "steer" else task for task in record["tasks"]]
    advice = too_small(record["examples"])  # other recipes read the same difference: none surely helps
    new = {**new, "tasks": tasks, "advice": advice}  # type: ignore[typeddict-item]
    return {**new, **tuned} if record["verdict"] == "steer" else new


def noise_in_words(noise: NoiseRecord) -> str:
    """Return signal, noise, and what they do to the strength.

    >>> noise_in_words({"signal": 3.0, "noise": 1.0, "share": 0.9, "tokens": 8})
    'rounding noise 1 nats, signal 3 nats (8 label tokens): it shrinks strengths to about 90 % of the exact ones'
    """
    return (
        f"rounding noise {noise['noise']:.2g} nats, signal {noise['signal']:.2g} nats ({noise['tokens']} label "
        f"tokens): it shrinks strengths to about {noise['share']:.0%} of the exact ones"
    ).replace("%", " %")
