"""Task-aware decoding: steering along the difference of the probabilities."""

from torch import Tensor

from svd_lightning.functional import expectation


class TaskAware:
    """d = (p − q) − E_p[p − q]: the tuned model's probability gains, centred under p.

    Xu et al. hold the difference between the output probabilities after and before fine-tuning to be the
    direction from general to task knowledge, and move the tuned output further along it. Implemented here:
    that difference as a direction in logit space, added like every other rule, so that mask, penalty,
    calibration and control are shared and a comparison is one of the directions alone. Which constants and
    which space the publication uses was not checked against its text: only its abstract was at hand.

    >>> import torch
    >>> log_p, log_q = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]).log()
    >>> rule = TaskAware()
    >>> rule.direction(log_p, log_q, rule.centre(log_p, log_q))
    tensor([ 0.1875, -0.3125, -0.0625])

    Source: Xu et al. (2024), "TaD: A Plug-and-Play Task-Aware Decoding Method", IJCAI 2024.
    """

    def centre(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """E_p[p − q]."""
        return expectation(log_p, log_p.exp() - log_q.exp())

    def direction(self, log_p: Tensor, log_q: Tensor, centre: Tensor) -> Tensor:
        """The centred difference of the probabilities."""
        return log_p.exp() - log_q.exp() - centre
