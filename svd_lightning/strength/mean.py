"""The paper's default estimator."""

from svd_lightning.calibration import Objective
from svd_lightning.strength.estimate import Estimate, closed_form, nothing_to_learn, token_strengths


class Mean:
    """Mean of the per-token strengths μ* = b / (‖d‖² + ε).

    Heavy-tailed: where the two models agree ‖d‖ → 0 and μ* explodes; on some data the mean even has the
    wrong sign. It is here for comparison with the paper; `LineSearch` is the optimum.

    Source: Hu et al. (2025), arXiv 2509.15888, eq. 44.
    """

    def __call__(self, objective: Objective) -> Estimate:
        """Average μ* over the informative tokens."""
        terms = objective.terms()
        strengths = token_strengths(terms)
        return closed_form(terms, strengths.mean().item()) if len(strengths) else nothing_to_learn(terms)
