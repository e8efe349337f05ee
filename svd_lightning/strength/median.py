"""A robust centre of the per-token strengths."""

from torch import Tensor

from svd_lightning.functional import StrengthTerms
from svd_lightning.strength.estimator import ClosedForm, token_strengths


def median(values: Tensor) -> float:
    """The middle value, or the mean of the middle two; `torch.median` takes the lower one."""
    ordered = values.sort().values
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]).item() / 2


class Median(ClosedForm):
    """Median of the per-token strengths μ* = b / (‖d‖² + ε)."""

    def strength(self, terms: StrengthTerms) -> float:
        """Take the median of μ*."""
        return median(token_strengths(terms))
