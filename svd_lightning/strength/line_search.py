"""The optimum: the strengths that minimise the calibration NLL."""

import math

import torch

from svd_lightning.errors import InputError
from svd_lightning.objective import Objective, Priced, TokenObjective
from svd_lightning.strength.estimator import Estimate
from svd_lightning.strength.solver import Solution, minimise, within_budget

RIDGES = (1.0, 0.1, 0.01, 1e-3, 1e-4)
"""Prices to choose from: from hardly any context to all but free weights."""

_FOLDS = 4
_COARSE = 1e-4
"""Slope at which a fit is good enough to compare prices by."""
_SEPARABLE_NLL = 1e-4
"""Below this K the labels are all but certain, and larger strengths would only make them more so."""


class LineSearch:
    """argmin_μ K(μ) for any number of rules at once: the global optimum, because K is convex in μ ∈ R^k.

    The search stays in a trust region, |μ_k| ≤ bound and mean KL(p_μ ‖ p_0) ≤ kl_budget, and says so when the
    result lies on its border: the calibration labels are then separable along a direction, or too few.

    Args:
        bound: largest |μ_k|.
        kl_budget: largest mean divergence of the steered from the unsteered distribution, in nats; beyond it
            the strengths are shortened along their own ray.
        tolerance: largest absolute slope dK/dμ at the result, in nats per token and unit of μ.
        ridge: ρ ≥ 0, what weights on features cost (`with_ridge`); None chooses it by cross-validation over
            the calibration examples (`best_ridge`). Without features it plays no part.

    >>> import torch
    >>> from svd_lightning.objective import TokenCollector, objective
    >>> from svd_lightning.steering import KLGradient
    >>> table = TokenCollector([KLGradient()])
    >>> tuned, base = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]).log()
    >>> labels, example = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 1, 1])
    >>> table.update(tuned.expand(4, 3), base.expand(4, 3), labels, example, torch.tensor([0, 1, 0, 1]))
    >>> round(LineSearch()(objective(table.compute(), [KLGradient()])).strengths[0], 3)
    1.999

    Source: README, "The method".
    """

    def __init__(
        self, *, bound: float = 1000.0, kl_budget: float = 5.0, tolerance: float = 1e-6, ridge: float | None = None
    ) -> None:
        for name, value in (("bound", bound), ("kl_budget", kl_budget), ("tolerance", tolerance)):
            if not (value > 0.0 and math.isfinite(value)):
                raise InputError(f"{name}: expected a finite number above 0, got {value}")
        if ridge is not None and not (ridge >= 0.0 and math.isfinite(ridge)):
            raise InputError(f"ridge: expected a finite number of at least 0, or none to choose it, got {ridge}")
        self.bound, self.kl_budget, self.tolerance, self.ridge = bound, kl_budget, tolerance, ridge

    def __call__(self, objective: Objective) -> Estimate:
        """Minimise K, and what the weights on features cost."""
        if objective.contextual.any():
            objective = with_ridge(objective, self._ridge(objective))
        found = minimise(objective, bound=self.bound, tolerance=self.tolerance)
        strengths = within_budget(objective, found.strengths, budget=self.kl_budget)
        shortened = not strengths.equal(found.strengths)
        warning = self._warning(found, shortened)
        return Estimate(tuple(strengths.tolist()), 0, warning, None if warning else found.hessian)

    def _ridge(self, objective: Objective) -> float:
        if self.ridge is not None:
            return self.ridge
        if not isinstance(objective, TokenObjective):
            raise InputError("ridge: expected a number, got none: there are no examples here to choose it by")
        return best_ridge(objective, bound=self.bound, tolerance=self.tolerance)

    def _warning(self, found: Solution, shortened: bool) -> str | None:
        if found.on_bound:
            return (
                f"the line search ended on its bound |μ| ≤ {self.bound:g} with the NLL still falling: use more "
                "calibration data, a longer warm start, or raise the bound"
            )
        if shortened:
            return (
                f"the optimum moves the distribution by more than {self.kl_budget:g} nats (KL): the strengths "
                "were shortened to that; use more calibration data, or raise kl_budget"
            )
        if found.nll < _SEPARABLE_NLL:
            return "the calibration labels are separable (NLL 0): any larger strength does as well; use more data"
        if not found.converged:
            return f"the line search stopped at a slope of {found.gradient_norm:.1e}, above {self.tolerance:g}"
        return None


def with_ridge(objective: Objective, ridge: float) -> Priced:
    """Return K(w) + ρ/2 Σ_k h_k Σ_{j>0} w_kj², with h_k the curvature of K along rule k at w = 0.

    Only weights on features pay, the constants are free: as ρ grows the result tends to the plain strengths, and
    adding a constant to a feature changes nothing. h_k makes ρ a pure number, whatever the length of a direction.

    Args:
        objective: K.
        ridge: ρ ≥ 0.
    """
    varying = objective.contextual
    own_rule = torch.arange(len(varying)).masked_fill(varying, 0).cummax(0).values
    zeros = torch.zeros(len(varying), dtype=torch.float64)
    curvature = objective.evaluate(zeros).hessian.diagonal()
    price = ridge * varying * curvature[own_rule]
    return Priced(objective, price.diag(), centre=zeros, start=objective.start)


def best_ridge(objective: TokenObjective, *, bound: float, tolerance: float) -> float:
    """Return the price with the lowest held-out NLL over folds of the objective's examples, the largest of a tie.

    A cross-fit calls it within each of its folds, so that no held-out example has a say in the price either.

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
            seen = with_ridge(objective.counting(numbers[fold != number], start=start), ridge)
            start = minimise(seen, bound=bound, tolerance=max(tolerance, _COARSE)).strengths
            nll[place] += unseen.evaluate(start).nll
    return RIDGES[int(nll.argmin())]
