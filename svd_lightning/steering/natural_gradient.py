"""The paper's rule without the projection: its natural gradient."""

from torch import Tensor

from svd_lightning.steering.kl_gradient import KLGradient


class NaturalGradient:
    """d = log(p/q) − KL(p‖q): the KL gradient preconditioned by the inverse Fisher matrix of the softmax.

    The Fisher matrix is J itself, so J⁺·J·log(p/q) is log(p/q) up to a constant, fixed here by E_p[d] = 0:
    once a mask is applied the constant matters. Proxy tuning and contrastive decoding extrapolate along
    it, and it is the paper's ablation "without projection".

    >>> import torch
    >>> log_p, log_q = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]).log()
    >>> rule = NaturalGradient()
    >>> rule.direction(log_p, log_q, rule.centre(log_p, log_q))
    tensor([ 0.5199, -0.8664, -0.1733])
    """

    centre = KLGradient.centre

    def direction(self, log_p: Tensor, log_q: Tensor, centre: Tensor) -> Tensor:
        """The centred log-ratio: log p − log q − KL."""
        return log_p - log_q - centre
