"""One Gauss–Newton step for the whole calibration split."""

from svd_lightning.functional import StrengthTerms
from svd_lightning.strength.estimator import MIN_SQ_NORM, ClosedForm


class Sequence(ClosedForm):
    """μ = Σ b / (Σ ‖d‖² + ε): a ratio of sums over the informative tokens.

    Source: Hu et al. (2025), arXiv 2509.15888, eq. 46.
    """

    def strength(self, terms: StrengthTerms) -> float:
        """Divide the sums."""
        return (terms.inner.sum() / (terms.sq_norm.sum() + MIN_SQ_NORM)).item()
