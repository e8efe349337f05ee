"""Shares of yes among a judge's verdicts, with its abstentions counted."""

from collections.abc import Sequence

import torch
from torch import Tensor, tensor

from svd_lightning.metrics.average import Average


def both(first: bool | None, second: bool | None) -> bool | None:
    """Whether two verdicts are both yes; one no decides, else an abstention leaves it open.

    >>> both(True, True), both(None, False), both(True, None)
    (True, False, None)
    """
    if first is False or second is False:
        return False
    return None if first is None or second is None else True


class JudgedRate(Average):
    """Share of yes among the answers on which the judge did not abstain (None).

    For %Truth×Info give `both` of the two verdicts: it is the share of answers that are truthful and
    informative at once, not the product of the two shares.

    >>> metric = JudgedRate()
    >>> metric.update([True, False, None])
    >>> metric.compute().item(), metric.abstained.item()
    (0.5, 1)
    """

    abstained: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("abstained", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, verdicts: Sequence[bool | None]) -> None:  # type: ignore[override]
        """Count some verdicts."""
        given = [verdict for verdict in verdicts if verdict is not None]
        self.abstained += len(verdicts) - len(given)
        super().update(tensor(given, dtype=self.total.dtype))
