"""Held-out log-probabilities of the labels, by cross-fitting."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from svd_lightning.errors import InputError
from svd_lightning.objective import CalibrationTokens, TokenObjective, objective, prefetch
from svd_lightning.records import Intervals
from svd_lightning.steering import SteeringRule
from svd_lightning.strength import Estimate, StrengthEstimator, estimate_all


class Fit(NamedTuple):
    """What an estimator found on all examples."""

    estimator: StrengthEstimator
    objective: TokenObjective
    estimate: Estimate
    intervals: Intervals | None = None
    """Of the strengths."""

    @property
    def point(self) -> Tensor:
        """The strengths, float64 [k]."""
        return torch.tensor(self.estimate.strengths, dtype=torch.float64)


def fit_each(wanted: Sequence[tuple[StrengthEstimator, TokenObjective]]) -> list[Fit]:
    """Fit every estimator to its objective, and let a stream answer all that is asked at the strengths found."""
    fits = [Fit(*one, estimate) for one, estimate in zip(wanted, estimate_all(wanted), strict=True)]
    prefetch([fit.objective for fit in fits], [fit.point for fit in fits])
    return fits


def cross_fit(tokens: CalibrationTokens, fits: Sequence[Fit], *, folds: int) -> list[Tensor]:
    """Return each fit's held-out log-probability of every label: strengths from the other folds, float64 [N].

    Folds are cut by example, so that no example helps to steer itself.

    Args:
        fits: what estimators found on all tokens; the searches of the folds begin there.

    Raises:
        InputError: for fewer examples than folds.
    """
    numbers, fold = example_folds(tokens.example, folds)
    seen = [numbers[fold != number] for number in range(folds)]
    fitted = iter(
        fit_each([(fit.estimator, fit.objective.counting(each, start=fit.point)) for fit in fits for each in seen])
    )
    held_out = []
    for _ in fits:
        log_probs = torch.zeros(tokens.num_tokens, dtype=torch.float64)
        for each, fit in zip(seen, fitted, strict=False):
            mine = ~torch.isin(tokens.example, each)
            log_probs[mine] = fit.objective.label_log_probs(fit.point)[mine]
        held_out.append(log_probs)
    return held_out


def tuned_log_probs(tokens: CalibrationTokens, rules: Sequence[SteeringRule]) -> Tensor:
    """Return each label's log-probability under the tuned model as it is, without a penalty, float64 [N].

    It is taken along the rules at strengths of 0, which a stream remembers for the figures that follow.
    """
    zeros = torch.zeros(len(rules), dtype=torch.float64)
    return objective(tokens, rules, penalty=0.0).label_log_probs(zeros)


def example_folds(example: Tensor, folds: int) -> tuple[Tensor, Tensor]:
    """Return the numbers of the examples, [E], and the fold of each, [E]; the same at every call."""
    numbers = example.unique()
    if len(numbers) < folds:
        raise InputError(
            f"guard: expected at least {folds} calibration examples, one per fold, got {len(numbers)}; "
            "give a larger calibration split, or fewer folds"
        )
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(0))
    return numbers, order % folds
