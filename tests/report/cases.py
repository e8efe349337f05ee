"""Calibrations to report: real ones of made-up tokens, near and with heavy tails."""

from dataclasses import dataclass, replace
from functools import cache

from svd_lightning.calibration import calibrate
from svd_lightning.objective import TokenCollector, TokenTable
from svd_lightning.steering import (
    ConfidentSet,
    Entropy,
    KLGradient,
    NaturalGradient,
    Steering,
    Temperature,
    with_built_in,
)
from svd_lightning.strength import LineSearch
from tests.objective.reference import Tokens, tokens


@dataclass(frozen=True)
class Case:
    steering: Steering
    table: TokenTable
    record: dict


def near(count: int = 120) -> Tokens:
    """Both models far enough apart for every estimator to be of ordinary size."""
    return tokens(count)


def heavy() -> Tokens:
    """Models that almost agree on every other token: μ* over many decades, and a mean far off the chart."""
    data = tokens(120)
    closeness = 1e-3 + (data.example % 2).double()[:, None]
    return replace(data, base=data.tuned + closeness * (data.base - data.tuned))


def opposed() -> Tokens:
    """Odd examples whose adapter went the other way: the strength that suits them has the other sign."""
    data = tokens(120)
    sign = 1.0 - 2.0 * (data.example % 2).double()[:, None]
    return replace(data, base=data.tuned + sign * (data.base - data.tuned))


def case(data: Tokens, rules, *, alphas=(0.05, 0.1, 0.5), penalty=float("-inf"), features=(), tasks=None) -> Case:
    steering = Steering(rules, features=features, alpha=0.1, penalty=penalty)
    metric = TokenCollector(
        (*with_built_in(rules), ConfidentSet()), features=features, alpha=min((0.1, *alphas)), tasks=tasks
    )
    data.update(metric)
    table = metric.compute()
    record = calibrate(table, steering, LineSearch(), alphas=alphas)
    return Case(steering, table, {**record, "epoch": 0, "global_step": 10})


def corrected(one: Case) -> Case:
    """The case with a calibrated head in use."""
    gain = {"mean": 0.3, "low": 0.2, "high": 0.4}
    used = {**one.record["used"], "strengths": [0.0] * len(one.record["rules"]), "gain": gain}
    head = {"name": "CalibratedHead", "tokens": 6, "settings": {"ridge": 0.01}, "nll": 1.25, "accuracy": 0.5}
    record = {
        **one.record,
        "verdict": "correct",
        "message": "the calibrated head helps most",
        "used": {**used, "correction": "CalibratedHead"},
        "corrections": [{**head, "gain": gain, "drift": 0.01, "cost": 1.02345}],
    }
    return Case(one.steering, one.table, record)


TWO_TASKS = {number: "even <b>" if number % 2 == 0 else "odd" for number in range(120)}
_BUILT = {
    "one-rule": lambda: case(near(), [KLGradient()]),
    "heavy-tails": lambda: case(heavy(), [KLGradient()]),
    "two-rules": lambda: case(near(), [KLGradient(), NaturalGradient()]),
    "contextual": lambda: case(near(), [KLGradient()], features=[Entropy()]),
    "finite-penalty": lambda: case(near(), [NaturalGradient()], penalty=-1.0),
    "control-only": lambda: case(near(), [Temperature()]),
    "no-sweep": lambda: case(near(), [KLGradient()], alphas=()),
    "tasks": lambda: case(opposed(), [KLGradient(), NaturalGradient()], tasks=TWO_TASKS),
    "many-alphas": lambda: case(near(), [KLGradient()], alphas=(0.001, 0.01, 0.1, 0.2, 0.3, 0.4, 0.5)),
}
CASES = {name: cache(build) for name, build in _BUILT.items()}
