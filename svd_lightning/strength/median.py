"""A robust centre of the per-token strengths."""

from torch import Tensor

from svd_lightning.calibration import Objective
from svd_lightning.strength.estimate import Estimate, closed_form, nothing_to_learn, token_strengths


def median(values: Tensor) -> float:
    """The middle value, or the mean of the middle two; `torch.median` takes the lower one."""
    ordered = values.sort().values
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]).item() / 2


class Median:
    """Median of the per-token strengths μ* = b / (‖d‖² + ε)."""

    def __call__(self, objective: Objective) -> Estimate:
        """Take the median of μ* over the informative tokens."""
        terms = objective.terms()
        strengths = token_strengths(terms)
        return closed_form(terms, median(strengths)) if len(strengths) else nothing_to_learn(terms)
