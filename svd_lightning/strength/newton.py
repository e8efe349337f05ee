"""One exact Newton step for the whole calibration split."""

from svd_lightning.calibration import Objective
from svd_lightning.strength.estimate import (
    MIN_SQ_NORM,
    Estimate,
    closed_form,
    informative,
    nothing_to_learn,
)


class Newton:
    """μ = Σ b / (Σ Var_p[d] + ε): the step from μ = 0 with the true curvature along d, in O(V).

    Source: README, "The method"; the paper replaces the curvature by ‖d‖², which makes the step too short.
    """

    def __call__(self, objective: Objective) -> Estimate:
        """Divide the sums."""
        terms = objective.terms()
        keep = informative(terms)
        if not keep.any():
            return nothing_to_learn(terms)
        return closed_form(terms, (terms.inner[keep].sum() / (terms.variance[keep].sum() + MIN_SQ_NORM)).item())
