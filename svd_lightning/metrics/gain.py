"""How much better one system is than another, and how sure that is."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from svd_lightning.records import GainRecord

ROUNDING = 1e-4
"""In nats: more than log-probabilities move together if another sum in float32 gives them; nothing to a share."""
_CHUNK = 2**24
"""Numbers drawn at once in the bootstrap: 128 MiB."""


@dataclass(frozen=True)
class Gain:
    """A mean gain, positive when better, with its 95 % interval; nats per token for log-probabilities."""

    mean: float
    low: float
    high: float

    @property
    def sure(self) -> bool:
        """Whether the interval lies above zero, by more than rounding."""
        return self.low > ROUNDING

    @property
    def surely_lost(self) -> bool:
        """Whether the interval lies below zero, by more than rounding."""
        return self.high < -ROUNDING

    def __str__(self) -> str:
        """Return it as text has it: the mean and its interval."""
        return f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"

    def plain(self) -> GainRecord:
        """Return it as JSON has it."""
        return {"mean": self.mean, "low": self.low, "high": self.high}


def paired_gain(
    better: Tensor,
    worse: Tensor,
    example: Tensor,
    *,
    level: float = 0.95,
    resamples: int | None = None,
    seed: int = 0,
) -> Gain:
    """Return the mean of better − worse per token, with a paired bootstrap interval over examples.

    Args:
        better, worse: numbers of the same tokens, float64 [N], such as log-probabilities of their labels; a token
            where one of them is infinite or NaN is left out.
        example: the example of each token, int64 [N]; tokens of one example are drawn together.
        level: of the interval, two-sided.
        resamples: bootstrap draws; None for as many as leave 25 in either tail.
        seed: of the draws.

    >>> worse = torch.tensor([-1.5, -1.5, -1.25, -1.25, -1.5, -1.5], dtype=torch.float64)
    >>> paired_gain(worse + 0.5, worse, torch.tensor([0, 0, 1, 1, 2, 2]))
    Gain(mean=0.5, low=0.5, high=0.5)
    """
    possible = better.isfinite() & worse.isfinite()
    _, number = example[possible].unique(return_inverse=True)
    examples = int(number.max()) + 1 if number.numel() else 0
    if examples < 2:
        return Gain(0.0, -math.inf, math.inf)
    gain = torch.zeros(examples, dtype=torch.float64).index_add_(0, number, (better - worse)[possible])
    tokens = torch.bincount(number, minlength=examples).double()
    generator = torch.Generator().manual_seed(seed)
    means, left = [], round(50 / (1.0 - level)) if resamples is None else resamples
    while left:
        now = min(left, max(1, _CHUNK // examples))
        drawn = torch.randint(examples, (now, examples), generator=generator)
        means.append(gain[drawn].sum(dim=1) / tokens[drawn].sum(dim=1))
        left -= now
    tails = torch.tensor([0.5 - level / 2, 0.5 + level / 2], dtype=torch.float64)
    low, high = torch.cat(means).quantile(tails).tolist()
    return Gain((gain.sum() / tokens.sum()).item(), low, high)
