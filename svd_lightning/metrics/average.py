"""The mean of one number per answer, whatever the number is."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


class Average(Metric):
    """Mean of one number per answer; sums in float64, additive over processes.

    >>> metric = Average()
    >>> metric.add([1.0, 0.0, 0.0, 1.0])
    >>> metric.compute().item()
    0.5
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    total: Tensor
    answers: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("answers", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def add(self, values: Sequence[float]) -> None:
        """Take the numbers of some answers."""
        self.update(torch.tensor(values, dtype=torch.float64))

    def update(self, values: Tensor) -> None:
        """Take the numbers of some answers, [N]."""
        self.total += values.to(self.total).sum()
        self.answers += values.numel()

    def compute(self) -> Tensor:
        """The mean; NaN before the first answer."""
        return self.total / self.answers
