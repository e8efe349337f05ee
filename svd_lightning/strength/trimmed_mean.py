"""The mean of the per-token strengths, without the tails."""

import math

from svd_lightning.errors import InputError
from svd_lightning.functional import StrengthTerms
from svd_lightning.strength.estimator import ClosedForm, token_strengths
from svd_lightning.strength.median import median


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
        """Average μ* near the median."""
        strengths = token_strengths(terms)
        middle = median(strengths)
        near = strengths[(strengths - middle).abs() < self.threshold]
        # an even number of values has a median between two of them, which may both lie further than τ
        return near.mean().item() if len(near) else middle
