"""How to read each figure, in plain words."""

import math
from collections.abc import Sequence

from svd_lightning.records import CalibrationRecord, HistoryRecord
from svd_lightning.report.words import short


def about_figure(name: str, record: CalibrationRecord, history: Sequence[HistoryRecord]) -> tuple[str, str]:
    """Return heading and explanation of a figure of `calibration_figures`."""
    kind, _, rule = name.partition("/")
    if kind == "objective":
        return _objective(record, rule)
    if kind == "tasks":
        pooled = short(record["strengths"][record["rules"].index(rule)])
        return f"{rule}, task by task", _TASKS.format(pooled=pooled)
    if kind == "mask":
        return "What the mask lets through", _mask(record)
    if kind == "history":
        return "Epoch by epoch", _history(history)
    return _FIXED[kind]


_FIXED = {
    "token_strength": (
        "What single tokens ask for",
        "For each calibration token, the strength that would suit its own label by the paper's formula. The axis "
        "is logarithmic on both sides of 0 (linear between −0.1 and 0.1). Long tails come from tokens on which "
        "the tuned and the base model almost agree. They can pull the mean far from the median, and neither needs "
        "to be near the optimum.",
    ),
    "gain": (
        "What each candidate gains",
        "Bars: held-out gain over the tuned model as decoded; to the right of 0 is better. Lines: the 95 % "
        "interval. Grey bars may be no better than the tuned model, blue ones are better, and the orange one is "
        "in use. A bar that would leave the chart is cut and carries its number.",
    ),
}

_TASKS = (
    "Dots: each task's strength, between its own and that of all examples (orange line, {pooled}). Lines: 95 % "
    "intervals. Dots on the orange line mean that the tasks do not ask for different strengths, or have too few "
    "examples to tell."
)


def _objective(record: CalibrationRecord, rule: str) -> tuple[str, str]:
    if not rule and len(record["rules"]) > 1:
        return (
            "All strengths together",
            "The loss on the calibration split on the way from the tuned model (0) through the strengths found (1)"
            " and beyond. Where the curve is lowest at 1, no common factor makes the strengths better.",
        )
    which = rule or record["rules"][0]
    if which != record["rules"][0]:
        return f"How far to go along {which}", "The same for this rule on its own."
    return (
        f"How far to go along {which}",
        "The curve is the loss on the calibration split at every strength μ, under the distribution that decoding "
        "uses; lower is better. It has one lowest point, and LineSearch finds it. The other estimators are "
        "formulas for the same number. The height of one of them above the lowest point is gain that it misses. "
        "One on the far side of 0 steers the wrong way.",
    )


def _mask(record: CalibrationRecord) -> str:
    text = (
        "A larger α keeps fewer tokens in the mask. Above: the share of the true labels that are still inside. "
        "Below: how many tokens the mask holds per position, on average. "
    )
    if record["alpha"] is None:
        return text + "The steering in use has no mask."
    if record["penalty"] == -math.inf:
        return text + (
            f"The penalty in use is −∞, which forbids every token outside: at α = {record['alpha']:g} that is the "
            f"label of {1 - record['coverage']:.1%} of the tokens. Where this share is large, a smaller α or a "
            "finite penalty is the safer choice."
        )
    return text + f"The penalty in use is {record['penalty']:g}: tokens outside stay possible."


def _history(history: Sequence[HistoryRecord]) -> str:
    text = (
        "Above: how far training has moved the model from its base, as the mean divergence over calibration "
        "tokens. Steering extends this distance. Below: the loss of base, tuned and steered model, with the "
        "strengths found, whether the guard uses them or not. "
    )
    if len(history) == 1:
        return text + f"There was one calibration, at a divergence of {short(history[0]['kl_to_reference'])} nats."
    return (
        text + "Where the tuned line turns upwards while the divergence grows, training has gone on for too long."
    )
