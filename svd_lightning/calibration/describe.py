"""What steering does on labelled tokens, of one task or of several: the figures of a record."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from svd_lightning.objective import CalibrationTokens, TokenTable, objective
from svd_lightning.records import FiguresRecord, TestFiguresRecord
from svd_lightning.steering import Steering, SteeringRule, TaskSteering, feature_name, rule_name


@dataclass(frozen=True)
class Outcome:
    """What strengths achieve on tokens."""

    nll: float
    """Mean NLL of all tokens in nats; the mask only silences the steering (λ = 0)."""
    nll_decoded: float
    """Mean NLL in nats under the distribution that decoding uses; with λ = −∞ of the covered tokens."""
    accuracy: float
    """Share of tokens whose label ranks first among the confident ones: what greedy decoding with λ = −∞ picks."""


def outcome(
    tokens: CalibrationTokens, rules: Sequence[SteeringRule], strengths: Sequence[float], *, penalty: float
) -> Outcome:
    """Return what these strengths achieve; strengths of 0 give the tuned model.

    Teacher forcing with λ = −∞ would make every label outside the mask impossible: `nll` takes λ = 0 instead, and
    `nll_decoded` leaves those tokens out.
    """
    mu = torch.tensor(strengths, dtype=torch.float64)
    nll = objective(tokens, rules, penalty=0.0).evaluate(mu).nll
    decoded = objective(tokens, rules, penalty=penalty).evaluate(mu).nll if tokens.coverage else math.nan
    return Outcome(nll, decoded, tokens.ranked_first(rules, mu).double().mean().item())


def figures(tokens: CalibrationTokens, steering: Steering, steered: Outcome) -> FiguresRecord:
    """Return the figures of a calibrated steering.

    Args:
        tokens: the labelled tokens.
        steering: rules, strengths, mask and penalty.
        steered: what the strengths achieve.
    """
    assert steering.strengths is not None
    rules = steering.directions
    tuned = outcome(tokens, rules, [0.0] * len(rules), penalty=steering.penalty)
    return {
        "rules": [rule_name(rule) for rule in rules],
        "features": [feature_name(feature) for feature in steering.features],
        "alpha": steering.alpha,
        "penalty": steering.penalty,
        "strengths": list(steering.strengths),
        "tokens": tokens.num_tokens,
        "examples": tokens.num_examples,
        "coverage": tokens.coverage,
        "mask_size": tokens.mask_size,
        "kl_to_reference": tokens.kl.double().mean().item(),
        "nll_base": -tokens.label_log_q.double().mean().item(),
        "nll_tuned": -tokens.label_log_p.double().mean().item(),
        "nll_steered": steered.nll,
        "nll_decoded_tuned": tuned.nll_decoded,
        "nll_decoded_steered": steered.nll_decoded,
        "accuracy_tuned": tuned.accuracy,
        "accuracy_steered": steered.accuracy,
    }


def describe(tokens: CalibrationTokens, steering: Steering) -> FiguresRecord:
    """Return the figures of a calibrated steering on other tokens."""
    steered = outcome(tokens, steering.directions, steering.strengths or (), penalty=steering.penalty)
    return figures(tokens, steering, steered)


def describe_tasks(table: TokenTable, steering: TaskSteering, tasks: Mapping[int, str]) -> TestFiguresRecord:
    """Return the figures with every example steered as its task is, and those of each task.

    Args:
        table: the labelled tokens.
        steering: of every task, calibrated.
        tasks: the task of each example that has one.
    """
    parts = {
        task: describe(table.select(torch.isin(table.example, examples)), steering.of_task(task))
        for task, examples in by_task(table.example, tasks).items()
    }
    record = describe(table, steering.shared)
    if steering.own:
        rows = list(parts.values())
        tokens = [float(row["tokens"]) for row in rows]
        decoded = [row["tokens"] * (row["coverage"] if row["penalty"] == -math.inf else 1.0) for row in rows]
        record["nll_steered"] = _mean([row["nll_steered"] for row in rows], tokens)
        record["accuracy_steered"] = _mean([row["accuracy_steered"] for row in rows], tokens)
        record["nll_decoded_steered"] = _mean([row["nll_decoded_steered"] for row in rows], decoded)
    return {**record, "tasks": [{"task": task, **row} for task, row in parts.items() if task is not None]}


def by_task(example: Tensor, tasks: Mapping[int, str]) -> dict[str | None, Tensor]:
    """Return the int64 numbers of each task's examples; those of no task come last, under None.

    Args:
        example: the example of each token, [N].
        tasks: the task of each example that has one.
    """
    examples: dict[str | None, list[int]] = {}
    for number in example.unique().tolist():
        examples.setdefault(tasks.get(number), []).append(number)
    names = sorted(examples, key=lambda task: (task is None, task))
    return {name: torch.tensor(examples[name]) for name in names}


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """Return the weighted mean; the value of a part without weight may be NaN."""
    total = sum(weights)
    return sum(w * value for w, value in zip(weights, values, strict=True) if w) / (total or math.nan)
