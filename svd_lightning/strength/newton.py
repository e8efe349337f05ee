"""One exact Newton step for the whole calibration split."""

from svd_lightning.functional import StrengthTerms
from svd_lightning.strength.estimator import MIN_SQ_NORM, ClosedForm


class Newton(ClosedForm):
    """μ = Σ b / (Σ Var_p[d] + ε): the step from μ = 0 with the true curvature along d, in O(V).

    Source: README, "The method"; the paper replaces the curvature by ‖d‖², which makes the step too short.
    """

    def strength(self, terms: StrengthTerms) -> float:
        """Divide the sums."""
        return (terms.inner.sum() / (terms.variance.sum() + MIN_SQ_NORM)).item()
