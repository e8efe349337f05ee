"""The optimum: the strengths that minimise the calibration NLL."""

import math

from svd_lightning.calibration import Objective
from svd_lightning.errors import InputError
from svd_lightning.strength.estimate import Estimate
from svd_lightning.strength.solver import minimise


class LineSearch:
    """argmin_μ K(μ) within |μ_k| ≤ bound: the global optimum, because K is convex in μ.

    Args:
        bound: largest |μ_k|; a result that ends on it carries a warning, because K was still falling there
            (the calibration data are separable along the direction, or the bound is too small).
        tolerance: largest absolute slope dK/dμ at the result, in nats per token and unit of μ.

    Source: README, "The method".
    """

    def __init__(self, *, bound: float = 100.0, tolerance: float = 1e-6) -> None:
        for name, value in (("bound", bound), ("tolerance", tolerance)):
            if not (value > 0.0 and math.isfinite(value)):
                raise InputError(f"{name}: expected a finite number above 0, got {value}")
        self.bound, self.tolerance = bound, tolerance

    def __call__(self, objective: Objective) -> Estimate:
        """Minimise K."""
        found = minimise(objective, bound=self.bound, tolerance=self.tolerance)
        warning = None
        if found.on_bound:
            warning = (
                f"the line search ended on its bound |μ| ≤ {self.bound:g} with the NLL still falling: use more "
                "calibration data, a longer warm start, or raise the bound"
            )
        elif not found.converged:
            warning = f"the line search stopped at a slope of {found.gradient_norm:.1e}, above {self.tolerance:g}"
        return Estimate(tuple(found.strengths.tolist()), warning=warning)
