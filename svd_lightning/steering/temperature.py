"""The control: sharpening the tuned distribution, without looking at the base."""

from torch import Tensor

from svd_lightning.functional import expectation


class Temperature:
    """d = log p + H(p), so that z + μ d is the tuned model at temperature 1 / (1 + μ); E_p[d] = 0.

    A short warm start is under-confident: sharpening alone lowers the NLL. A gain of steering counts when
    it beats this control.

    >>> import torch
    >>> log_p, log_q = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]).log()
    >>> rule = Temperature()
    >>> rule.direction(log_p, log_q, rule.centre(log_p, log_q))
    tensor([ 0.3466, -0.3466, -0.3466])
    """

    def centre(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """E_p[log p] = −H(p)."""
        return expectation(log_p, log_p)

    def direction(self, log_p: Tensor, log_q: Tensor, centre: Tensor) -> Tensor:
        """The centred log-probability: log p + H(p)."""
        return log_p - centre
