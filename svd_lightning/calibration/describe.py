"""What a calibrated steering does on labelled tokens, of one task or of several."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from svd_lightning.calibration.comparison import base_nll, score, tuned_nll
from svd_lightning.calibration.tasks import by_task
from svd_lightning.objective import CalibrationTokens, TokenTable
from svd_lightning.steering import Steering, TaskSteering, feature_name, rule_name


def describe(data: CalibrationTokens, steering: Steering) -> dict[str, Any]:
    """What a calibrated steering does on labelled tokens, in plain numbers and strings."""
    assert steering.strengths is not None
    directions = steering.directions
    tuned = score(data, directions, [0.0] * len(directions), penalty=steering.penalty)
    steered = score(data, directions, steering.strengths, penalty=steering.penalty)
    return {
        "rules": [rule_name(rule) for rule in directions],
        "features": [feature_name(feature) for feature in steering.features],
        "alpha": steering.alpha,
        "penalty": steering.penalty,
        "strengths": list(steering.strengths),
        "tokens": data.num_tokens,
        "examples": data.num_examples,
        "coverage": data.coverage,
        "mask_size": data.mask_size,
        "kl_to_reference": data.kl.double().mean().item(),
        "nll_base": base_nll(data),
        "nll_tuned": tuned_nll(data),
        "nll_steered": steered.nll,
        "nll_decoded_tuned": tuned.nll_decoded,
        "nll_decoded_steered": steered.nll_decoded,
        "accuracy_tuned": tuned.accuracy,
        "accuracy_steered": steered.accuracy,
    }


def describe_tasks(table: TokenTable, steering: TaskSteering, tasks: Mapping[int, str]) -> dict[str, Any]:
    """The same with every example steered as its task is; `tasks` holds a record of each.

    Args:
        table: the tokens.
        steering: calibrated.
        tasks: of each example that has one.
    """
    parts = {
        task: describe(table.select(torch.isin(table.example, examples)), steering.of_task(task))
        for task, examples in by_task(table.example, tasks).items()
    }
    record = describe(table, steering.shared)
    if steering.own:
        tokens = {task: part["tokens"] for task, part in parts.items()}
        decoded = {task: tokens[task] * _share_decoded(part) for task, part in parts.items()}
        record["nll_steered"] = _mean(parts, "nll_steered", tokens)
        record["accuracy_steered"] = _mean(parts, "accuracy_steered", tokens)
        record["nll_decoded_steered"] = _mean(parts, "nll_decoded_steered", decoded)
    return {**record, "tasks": [{"task": task, **part} for task, part in parts.items() if task is not None]}


def _share_decoded(part: Mapping[str, Any]) -> float:
    """The share of the tokens that `nll_decoded` is the mean of."""
    return part["coverage"] if part["penalty"] == -math.inf else 1.0


def _mean(parts: Mapping[Any, Mapping[str, Any]], name: str, weights: Mapping[Any, float]) -> float:
    """The mean of a figure over all tokens, from those of the parts."""
    total = sum(weights.values())
    return sum(weights[task] * part[name] for task, part in parts.items() if weights[task]) / (total or math.nan)
