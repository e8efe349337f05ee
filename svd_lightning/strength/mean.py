"""The paper's default estimator."""

from svd_lightning.functional import StrengthTerms
from svd_lightning.strength.estimator import ClosedForm, token_strengths


class Mean(ClosedForm):
    """Mean of the per-token strengths μ* = b / (‖d‖² + ε).

    Heavy-tailed: where the two models agree ‖d‖ → 0 and μ* explodes; on some data the mean even has the
    wrong sign. It is here for comparison with the paper; `LineSearch` is the optimum.

    Source: Hu et al. (2025), arXiv 2509.15888, eq. 44.
    """

    def strength(self, terms: StrengthTerms) -> float:
        """Average μ*."""
        return token_strengths(terms).mean().item()
