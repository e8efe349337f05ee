"""Estimators without a search: the paper's, their relatives, and strengths that the user gives."""

import math
from collections import abc

from torch import Tensor

from svd_lightning.errors import InputError
from svd_lightning.functional import StrengthTerms
from svd_lightning.objective import Objective
from svd_lightning.strength.estimator import MIN_SQ_NORM, ClosedForm, Estimate, token_strengths


class Mean(ClosedForm):
    """Mean of the per-token strengths μ* = b / (‖d‖² + ε).

    Heavy-tailed: where the two models agree ‖d‖ → 0 and μ* explodes; on some data the mean even has the
    wrong sign. It is here for comparison with the paper; `LineSearch` finds the optimum.

    Source: Hu et al. (2025), arXiv 2509.15888, eq. 44.
    """

    def strength(self, terms: StrengthTerms) -> float:
        """Return the mean of μ*."""
        return token_strengths(terms).mean().item()


class Median(ClosedForm):
    """Median of the per-token strengths μ* = b / (‖d‖² + ε)."""

    def strength(self, terms: StrengthTerms) -> float:
        """Return the median of μ*."""
        return median(token_strengths(terms))


class TrimmedMean(ClosedForm):
    """Mean of the per-token strengths with |μ* − median| < τ.

    Args:
        threshold: τ > 0.

    Source: Hu et al. (2025), arXiv 2509.15888, eq. 45.
    """

    def __init__(self, threshold: float = 10.0) -> None:
        if not (threshold > 0.0 and math.isfinite(threshold)):
            raise InputError(f"threshold: expected a finite number above 0, got {threshold}")
        self.threshold = threshold

    def strength(self, terms: StrengthTerms) -> float:
        """Return the mean of μ* near the median."""
        strengths = token_strengths(terms)
        middle = median(strengths)
        near = strengths[(strengths - middle).abs() < self.threshold]
        # an even number of values has a median between two of them, which may both lie further than τ
        return near.mean().item() if len(near) else middle


class Sequence(ClosedForm):
    """μ = Σ b / (Σ ‖d‖² + ε): a ratio of sums over the informative tokens.

    Source: Hu et al. (2025), arXiv 2509.15888, eq. 46.
    """

    def strength(self, terms: StrengthTerms) -> float:
        """Return the ratio of the sums."""
        return (terms.inner.sum() / (terms.sq_norm.sum() + MIN_SQ_NORM)).item()


class Newton(ClosedForm):
    """μ = Σ b / (Σ Var_p[d] + ε): the step from μ = 0 with the true curvature along d, in O(V).

    Source: README, "The method"; the paper replaces the curvature by ‖d‖², which makes the step too short.
    """

    def strength(self, terms: StrengthTerms) -> float:
        """Return the ratio of the sums."""
        return (terms.inner.sum() / (terms.variance.sum() + MIN_SQ_NORM)).item()


CLOSED_FORMS: tuple[ClosedForm, ...] = (Mean(), Median(), TrimmedMean(), Sequence(), Newton())
"""The estimators that a calibration tries on each of the chosen rules."""


class Fixed:
    """The given strengths, whatever the data.

    Args:
        strengths: μ_k, one per rule.

    Raises:
        InputError: for a strength that is not finite, or (when called) a wrong number of them.
    """

    def __init__(self, strengths: abc.Sequence[float]) -> None:
        if not all(math.isfinite(strength) for strength in strengths):
            raise InputError(f"strengths: expected finite numbers, got {list(strengths)}")
        self.strengths = tuple(map(float, strengths))

    def __call__(self, objective: Objective) -> Estimate:
        """Return the given strengths."""
        if len(self.strengths) != objective.num_directions:
            raise InputError(
                f"strengths: expected one per rule ({objective.num_directions}), got {len(self.strengths)}"
            )
        return Estimate(self.strengths)


def median(values: Tensor) -> float:
    """Return the middle value, or the mean of the middle two; `torch.median` takes the lower one."""
    ordered = values.sort().values
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]).item() / 2
