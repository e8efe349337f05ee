"""Held-out log-probabilities of the labels, by cross-fitting."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from svd_lightning.errors import InputError
from svd_lightning.objective import CalibrationTokens, objective
from svd_lightning.steering import SteeringRule
from svd_lightning.strength.estimator import StrengthEstimator


def cross_fit(
    data: CalibrationTokens,
    rules: Sequence[SteeringRule],
    estimator: StrengthEstimator,
    *,
    penalty: float,
    folds: int,
    whole: Sequence[float] | None = None,
    seed: int = 0,
) -> Tensor:
    """Held-out log-probability of every label: strengths from the other folds, float64 [N].

    Folds are cut by example, so that no example helps to steer itself. With λ = −∞ tokens whose label lies
    outside the mask have log-probability −∞ whatever the strength.

    Args:
        data: the calibration tokens.
        rules: the directions.
        estimator: fits the strengths of each fold.
        penalty: λ of decoding.
        folds: how many.
        whole: the estimator's strengths on all examples, where they are known: the folds begin there.
        seed: of the cut.

    Raises:
        InputError: for fewer examples than folds.
    """
    numbers, fold = example_folds(data.example, folds, seed=seed)
    problem = objective(data, rules, penalty=penalty)
    begin = torch.tensor(estimator(problem).strengths if whole is None else whole, dtype=torch.float64)

    def held_out(number: int) -> Tensor:
        fitted = estimator(problem.counting(numbers[fold != number], start=begin))
        return problem.label_log_probs(torch.tensor(fitted.strengths, dtype=torch.float64))

    possible = possible_labels(data, penalty)
    found = torch.full((data.num_tokens,), -math.inf, dtype=torch.float64)
    for number, here in enumerate(data.map(held_out, range(folds))):
        mine = torch.isin(data.example, numbers[fold == number])
        found[mine & possible] = here[mine[possible]]
    return found


def label_log_probs(
    data: CalibrationTokens, rules: Sequence[SteeringRule], strengths: Tensor, *, penalty: float
) -> Tensor:
    """Steered log-probability of each token's label, float64 [N]; −∞ where λ = −∞ forbids it."""
    possible = possible_labels(data, penalty)
    found = torch.full((data.num_tokens,), -math.inf, dtype=torch.float64)
    if possible.any():
        found[possible] = objective(data, rules, penalty=penalty).label_log_probs(strengths)
    return found


def possible_labels(data: CalibrationTokens, penalty: float) -> Tensor:
    """Tokens whose label can be generated, bool [N]: those that the objective tells about."""
    return data.covered if penalty == -math.inf else torch.ones_like(data.covered)


def example_folds(example: Tensor, folds: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The numbers of the examples, [E], and the fold of each, [E]."""
    numbers = example.unique()
    if len(numbers) < folds:
        raise InputError(
            f"guard: expected at least {folds} calibration examples, one per fold, got {len(numbers)}; "
            "give a larger calibration split, or fewer folds"
        )
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(seed))
    return numbers, order % folds
