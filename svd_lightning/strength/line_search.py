"""The optimum: the strengths that minimise the calibration NLL."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from svd_lightning.errors import InputError
from svd_lightning.objective import Objective, Priced, TokenObjective, prefetch
from svd_lightning.strength.estimator import Estimate, StrengthEstimator
from svd_lightning.strength.solver import Solution, minimise_all, within_budget

RIDGES = (1.0, 0.1, 0.01, 1e-3, 1e-4)
"""Prices to choose from: from hardly any context to all but free weights."""

_FOLDS = 4
_COARSE = 1e-4
"""Slope at which a fit is good enough to compare prices by."""
_SEPARABLE_NLL = 1e-4
"""Below this K the labels are all but certain, and larger strengths would only make them more so."""


class LineSearch:
    """argmin_μ K(μ) for any number of rules at once: the global optimum where K is convex in μ ∈ R^k.

    The likelihood of tokens is convex. The choice among options is not: the search goes downhill from 0.

    The search stays in a trust region, |μ_k| ≤ bound and mean KL(p_μ ‖ p_0) ≤ kl_budget, and warns when the result
    lies on its border: the calibration labels are then separable along a direction, or too few.

    Args:
        bound: largest |μ_k|.
        kl_budget: largest mean divergence of the steered from the unsteered distribution, in nats; beyond it
            the strengths are shortened along their own ray.
        tolerance: largest absolute slope dK/dμ at the result, in nats per token and unit of μ.
        ridge: ρ ≥ 0, what weights on features cost (`with_ridge`); None chooses it by cross-validation over
            the calibration examples (`best_ridges`). Without features it has no effect.

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

    def __eq__(self, other: object) -> bool:
        """Compare type and options."""
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        """Agree with `==`."""
        return hash((type(self), *vars(self).values()))

    def __call__(self, objective: Objective) -> Estimate:
        """Return the minimum of K plus the price of the weights on features."""
        return self.search_all([objective])[0]

    def search_all(self, objectives: Sequence[Objective]) -> list[Estimate]:
        """Return the estimate of each objective; the searches run in step, so that a stream needs few passes."""
        priced = self._priced(objectives)
        solutions = minimise_all(priced, bound=self.bound, tolerance=self.tolerance)
        ends = within_budget(priced, [one.strengths for one in solutions], budget=self.kl_budget)
        return [self._estimate(one, end) for one, end in zip(solutions, ends, strict=True)]

    def _estimate(self, found: Solution, end: Tensor) -> Estimate:
        warning = self._warning(found, shortened=not end.equal(found.strengths))
        return Estimate(tuple(end.tolist()), 0, warning, None if warning else found.hessian)

    def _priced(self, objectives: Sequence[Objective]) -> list[Objective]:
        """Return the objectives; those with features pay for their weights."""
        varying = [one for one in objectives if one.contextual.any()]
        ridges = iter(self._ridges(varying))
        return [with_ridge(one, next(ridges)) if one.contextual.any() else one for one in objectives]

    def _ridges(self, objectives: Sequence[Objective]) -> list[float]:
        if self.ridge is not None:
            return [self.ridge] * len(objectives)
        with_examples = [one for one in objectives if isinstance(one, TokenObjective)]
        if len(with_examples) < len(objectives):
            raise InputError("ridge: expected a number, got none: there are no examples here to choose it by")
        return best_ridges(with_examples, bound=self.bound, tolerance=self.tolerance)

    def _warning(self, found: Solution, *, shortened: bool) -> str | None:
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


def with_ridge(objective: Objective, ridge: float, *, start: Tensor | None = None) -> Priced:
    """Return K(w) + ρ/2 Σ_k h_k Σ_{j>0} w_kj², with h_k the curvature of K along rule k at w = 0.

    Only weights on features pay, the constants are free: as ρ grows the result tends to the plain strengths, and
    adding a constant to a feature changes nothing. h_k makes ρ a pure number, whatever the length of a direction.

    Args:
        objective: K.
        ridge: ρ ≥ 0.
        start: where a search begins, float64 [k]; None for the start of K.
    """
    varying = objective.contextual
    own_rule = torch.arange(len(varying)).masked_fill(varying, 0).cummax(0).values
    zeros = torch.zeros(len(varying), dtype=torch.float64)
    curvature = objective.evaluate(zeros).hessian.diagonal().abs()  # below 0 only where K is not convex
    price = ridge * varying * curvature[own_rule]
    return Priced(objective, price.diag(), centre=zeros, start=objective.start if start is None else start)


def best_ridges(objectives: Sequence[TokenObjective], *, bound: float, tolerance: float) -> list[float]:
    """Return for each the price with the lowest held-out NLL over folds of its examples, the largest of a tie.

    A cross-fit calls it within each of its folds, so that no held-out example helps to choose the price.

    Args:
        objectives: each with its examples; one with fewer examples than folds gets the largest price.
        bound, tolerance: as `LineSearch` takes them.
    """
    places, seen, unseen = [], [], []
    for place, one in enumerate(objectives):
        examples = one.examples
        fold = torch.randperm(len(examples), generator=torch.Generator().manual_seed(1)) % _FOLDS
        for number in range(_FOLDS if len(examples) >= _FOLDS else 0):
            places.append(place)
            seen.append(one.counting(examples[fold != number], start=one.start))
            unseen.append(one.counting(examples[fold == number], start=one.start))
    nll = torch.zeros(len(objectives), len(RIDGES), dtype=torch.float64)
    starts = [one.start for one in seen]
    for column, ridge in enumerate(RIDGES):
        priced = [with_ridge(one, ridge, start=start) for one, start in zip(seen, starts, strict=True)]
        starts = [one.strengths for one in minimise_all(priced, bound=bound, tolerance=max(tolerance, _COARSE))]
        prefetch(unseen, starts)
        for place, one, start in zip(places, unseen, starts, strict=True):
            nll[place, column] += one.evaluate(start).nll
    return [RIDGES[int(row.argmin())] for row in nll]


def estimate_all(wanted: Sequence[tuple[StrengthEstimator, Objective]]) -> list[Estimate]:
    """Return each estimator's estimate on its objective; line searches with the same options run in step."""
    estimates: dict[int, Estimate] = {}
    searches: dict[LineSearch, list[int]] = {}
    for n, (estimator, objective) in enumerate(wanted):
        if type(estimator) is LineSearch:
            searches.setdefault(estimator, []).append(n)
        else:
            estimates[n] = estimator(objective)
    for search, places in searches.items():
        estimates |= zip(places, search.search_all([wanted[n][1] for n in places]), strict=True)
    return [estimates[n] for n in range(len(wanted))]
