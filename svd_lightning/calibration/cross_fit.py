"""Strengths for examples that did not help to find them, by cross-fitting."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from svd_lightning.calibration.split import Part, example_folds
from svd_lightning.objective import TokenObjective, prefetch
from svd_lightning.records import Intervals
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


def cross_fit(example: Tensor, fits: Sequence[Fit], *, folds: int) -> list[list[Part]]:
    """Return for each fit the examples of each fold with strengths from the other folds.

    Folds are cut by example, so that no example helps to steer itself; a question with its options is one.

    Args:
        example: of each thing that is fitted, int64 [U].
        fits: what estimators found on all examples; the searches of the folds begin there.

    Raises:
        InputError: for fewer examples than folds.
    """
    numbers, fold = example_folds(example, folds)
    seen = [numbers[fold != number] for number in range(folds)]
    found = fit_each(
        [(fit.estimator, fit.objective.counting(each, start=fit.point)) for fit in fits for each in seen]
    )
    parts = [Part(numbers[fold == n % folds], each.point) for n, each in enumerate(found)]
    return [parts[n : n + folds] for n in range(0, len(parts), folds)]
