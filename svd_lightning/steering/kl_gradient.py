"""The paper's rule: the KL gradient, projected into logit space."""

from torch import Tensor

from svd_lightning.functional import expectation


class KLGradient:
    """d = J·log(p/q) = p ⊙ (log(p/q) − KL(p‖q)), the task direction of the paper.

    >>> import torch
    >>> log_p, log_q = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]).log()
    >>> rule = KLGradient()
    >>> rule.direction(log_p, log_q, rule.centre(log_p, log_q))
    tensor([ 0.2599, -0.2166, -0.0433])

    Source: Hu et al. (2025), arXiv 2509.15888, eq. 6 to 9.
    """

    def centre(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """KL(p‖q)."""
        return expectation(log_p, log_p - log_q)

    def direction(self, log_p: Tensor, log_q: Tensor, centre: Tensor) -> Tensor:
        """p ⊙ (log p − log q − KL)."""
        return log_p.exp() * (log_p - log_q - centre)
