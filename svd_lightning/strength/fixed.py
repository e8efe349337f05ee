"""Strengths that the user gives."""

import math
from collections.abc import Sequence

from svd_lightning.errors import InputError
from svd_lightning.objective import Objective
from svd_lightning.strength.estimator import Estimate


class Fixed:
    """The given strengths, whatever the data say.

    Args:
        strengths: μ_k, one per rule.

    Raises:
        InputError: for a strength that is not finite, or (when called) a wrong number of them.
    """

    def __init__(self, strengths: Sequence[float]) -> None:
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
