"""Mean NLL per token, and the perplexity that goes with it."""

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanNLL(Metric):
    """Mean of −log p_y over completion tokens, in nats; sums in float64, additive over processes.

    >>> metric = MeanNLL()
    >>> metric.update(torch.tensor([-1.0, -3.0]))
    >>> metric.compute().item()
    2.0
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = False
    total: Tensor
    tokens: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("tokens", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, log_probabilities: Tensor) -> None:
        """Add the log-probabilities of some labels, [N]."""
        self.total -= log_probabilities.double().sum()
        self.tokens += log_probabilities.numel()

    def compute(self) -> Tensor:
        """Nats per token; NaN before the first token."""
        return self.total / self.tokens
