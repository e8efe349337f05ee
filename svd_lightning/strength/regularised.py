"""The calibration objective with a price on strengths that vary from position to position."""

import torch
from torch import Tensor

from svd_lightning.functional import StrengthTerms
from svd_lightning.objective import Evaluation, Objective, TokenObjective
from svd_lightning.strength.solver import minimise

RIDGES = (1.0, 0.1, 0.01, 1e-3, 1e-4)
"""Prices to choose from: from hardly any context to all but free weights."""

_FOLDS = 4
_COARSE = 1e-4
"""Slope at which a fit is good enough to compare prices by."""


class Regularised:
    """K(w) + ρ/2 Σ_k h_k Σ_{j>0} w_kj², with h_k the curvature of K along rule k at w = 0.

    Only weights on features pay, the constants are free: as ρ grows the result tends to the plain strengths, and
    adding a constant to a feature changes nothing. h_k makes ρ a pure number, whatever the length of a
    direction. Still convex.

    Args:
        objective: K.
        ridge: ρ ≥ 0.
    """

    def __init__(self, objective: Objective, ridge: float) -> None:
        self._objective = objective
        varying = objective.contextual
        own_rule = torch.arange(len(varying)).masked_fill(varying, 0).cummax(0).values
        curvature = objective.evaluate(torch.zeros(len(varying), dtype=torch.float64)).hessian.diagonal()
        self._price = ridge * varying * curvature[own_rule]

    @property
    def num_directions(self) -> int:
        """How many weights there are."""
        return self._objective.num_directions

    @property
    def start(self) -> Tensor:
        """Where the objective begins."""
        return self._objective.start

    @property
    def contextual(self) -> Tensor:
        """Which weights pay, bool [k]."""
        return self._objective.contextual

    def evaluate(self, strengths: Tensor) -> Evaluation:
        """Value, gradient and Hessian, the price included."""
        found = self._objective.evaluate(strengths)
        paid = self._price * strengths
        nll = found.nll + 0.5 * (paid * strengths).sum().item()
        return Evaluation(nll, found.gradient + paid, found.hessian + self._price.diag())

    def divergence(self, strengths: Tensor) -> float:
        """As of the objective."""
        return self._objective.divergence(strengths)

    def terms(self) -> StrengthTerms:
        """As of the objective."""
        return self._objective.terms()


def best_ridge(objective: TokenObjective, *, bound: float, tolerance: float) -> float:
    """The price with the lowest held-out NLL over folds of the objective's own examples; the largest of a tie.

    Seen from a cross-fit this happens inside each of its folds, so that no held-out example has a say in the
    price either.

    Args:
        objective: with its examples.
        bound, tolerance: of the line search.
    """
    numbers = objective.examples
    if len(numbers) < _FOLDS:
        return RIDGES[0]
    fold = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(1)) % _FOLDS
    nll = torch.zeros(len(RIDGES), dtype=torch.float64)
    for number in range(_FOLDS):
        unseen = objective.counting(numbers[fold == number], start=objective.start)
        start = objective.start
        for place, ridge in enumerate(RIDGES):
            seen = Regularised(objective.counting(numbers[fold != number], start=start), ridge)
            start = minimise(seen, bound=bound, tolerance=max(tolerance, _COARSE)).strengths
            nll[place] += unseen.evaluate(start).nll
    return RIDGES[int(nll.argmin())]
