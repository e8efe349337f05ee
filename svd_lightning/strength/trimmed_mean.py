"""The mean of the per-token strengths, without the tails."""

import math

from svd_lightning.calibration import Objective
from svd_lightning.errors import InputError
from svd_lightning.strength.estimate import Estimate, closed_form, nothing_to_learn, token_strengths
from svd_lightning.strength.median import median


class TrimmedMean:
    """Mean of the per-token strengths with |μ* − median| < τ.

    Args:
        threshold: τ > 0.

    Source: Hu et al. (2025), arXiv 2509.15888, eq. 45.
    """

    def __init__(self, threshold: float = 10.0) -> None:
        if not (threshold > 0.0 and math.isfinite(threshold)):
            raise InputError(f"threshold: expected a finite number above 0, got {threshold}")
        self.threshold = threshold

    def __call__(self, objective: Objective) -> Estimate:
        """Average μ* over the informative tokens near the median."""
        terms = objective.terms()
        strengths = token_strengths(terms)
        if not len(strengths):
            return nothing_to_learn(terms)
        near = strengths[(strengths - median(strengths)).abs() < self.threshold]
        # an even number of values has a median between two of them, which may both lie further than τ
        return closed_form(terms, near.mean().item() if len(near) else median(strengths))
