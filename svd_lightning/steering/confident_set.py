"""The penalty outside the mask, as a direction whose coefficient can be fitted."""

import torch
from torch import Tensor


class ConfidentSet:
    """d = 1 on the confident tokens, 0 on the others: its strength is −λ.

    Lifting the confident set by c and lowering the rest by c give the same distribution, so the penalty is
    one more convex coefficient. Use it with `penalty: 0`; a fitted strength of 20 or more is λ = −∞ in effect.

    Source: README, "The method".
    """

    def centre(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """Nothing is needed from the whole vocabulary: 0."""
        return log_p.new_zeros(log_p.shape[:-1])

    def direction(self, log_p: Tensor, log_q: Tensor, centre: Tensor) -> Tensor:
        """Ones: the mask does the rest."""
        return torch.ones_like(log_p)
