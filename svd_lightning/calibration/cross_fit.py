"""Held-out log-probabilities of the labels, by cross-fitting."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from svd_lightning.errors import InputError
from svd_lightning.objective import CalibrationTokens, objective
from svd_lightning.steering import SteeringRule
from svd_lightning.strength import StrengthEstimator


def cross_fit(
    tokens: CalibrationTokens,
    rules: Sequence[SteeringRule],
    estimator: StrengthEstimator,
    *,
    penalty: float,
    folds: int,
    whole: Sequence[float] | None = None,
    seed: int = 0,
) -> Tensor:
    """Return the held-out log-probability of every label: strengths from the other folds, float64 [N].

    Folds are cut by example, so that no example helps to steer itself. With λ = −∞ tokens whose label lies
    outside the mask have log-probability −∞ whatever the strength.

    Args:
        tokens: the calibration tokens.
        rules: the directions.
        estimator: fits the strengths of each fold.
        penalty: λ of decoding.
        folds: how many.
        whole: the estimator's strengths on all examples, where they are known: the folds begin there.
        seed: of the cut.

    Raises:
        InputError: for fewer examples than folds.
    """
    numbers, fold = example_folds(tokens.example, folds, seed=seed)
    problem = objective(tokens, rules, penalty=penalty)
    begin = torch.tensor(estimator(problem).strengths if whole is None else whole, dtype=torch.float64)

    def held_out(number: int) -> Tensor:
        fitted = estimator(problem.counting(numbers[fold != number], start=begin))
        return problem.label_log_probs(torch.tensor(fitted.strengths, dtype=torch.float64))

    possible = possible_labels(tokens, penalty)
    found = torch.full((tokens.num_tokens,), -math.inf, dtype=torch.float64)
    for number, here in enumerate(tokens.map(held_out, range(folds))):
        mine = torch.isin(tokens.example, numbers[fold == number])
        found[mine & possible] = here[mine[possible]]
    return found


def label_log_probs(
    tokens: CalibrationTokens, rules: Sequence[SteeringRule], strengths: Tensor, *, penalty: float
) -> Tensor:
    """Return the steered log-probability of each token's label, float64 [N]; −∞ where λ = −∞ forbids it."""
    possible = possible_labels(tokens, penalty)
    found = torch.full((tokens.num_tokens,), -math.inf, dtype=torch.float64)
    if possible.any():
        found[possible] = objective(tokens, rules, penalty=penalty).label_log_probs(strengths)
    return found


def possible_labels(tokens: CalibrationTokens, penalty: float) -> Tensor:
    """Return the tokens whose label can be generated, bool [N]: those that the objective is about."""
    return tokens.covered if penalty == -math.inf else torch.ones_like(tokens.covered)


def example_folds(example: Tensor, folds: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return the numbers of the examples, [E], and the fold of each, [E]."""
    numbers = example.unique()
    if len(numbers) < folds:
        raise InputError(
            f"guard: expected at least {folds} calibration examples, one per fold, got {len(numbers)}; "
            "give a larger calibration split, or fewer folds"
        )
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(seed))
    return numbers, order % folds
