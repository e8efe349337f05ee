"""One Gauss–Newton step for the whole calibration split."""

from svd_lightning.calibration import Objective
from svd_lightning.strength.estimate import (
    MIN_SQ_NORM,
    Estimate,
    closed_form,
    informative,
    nothing_to_learn,
)


class Sequence:
    """μ = Σ b / (Σ ‖d‖² + ε): a ratio of sums over the informative tokens.

    Source: Hu et al. (2025), arXiv 2509.15888, eq. 46.
    """

    def __call__(self, objective: Objective) -> Estimate:
        """Divide the sums."""
        terms = objective.terms()
        keep = informative(terms)
        if not keep.any():
            return nothing_to_learn(terms)
        return closed_form(terms, (terms.inner[keep].sum() / (terms.sq_norm[keep].sum() + MIN_SQ_NORM)).item())
