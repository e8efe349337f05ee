"""How much better one system is than another, and how sure that is."""

import math
from collections.abc import Sequence
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
    examples, number = example[possible].unique(return_inverse=True)
    if len(examples) < 2:
        return Gain(0.0, -math.inf, math.inf)
    nothing = torch.zeros(len(examples), 1, dtype=torch.float64)
    gain = nothing.index_add(0, number, (better - worse)[possible, None])
    tokens = nothing.index_add(0, number, torch.ones(len(number), 1, dtype=torch.float64))
    means = _resampled(gain, tokens, round(50 / (1.0 - level)) if resamples is None else resamples, seed=seed)
    tails = torch.tensor([0.5 - level / 2, 0.5 + level / 2], dtype=torch.float64)
    low, high = means[:, 0].quantile(tails).tolist()
    return Gain((gain.sum() / tokens.sum()).item(), low, high)


def joint_level(
    better: Sequence[Tensor], worse: Tensor, example: Tensor, *, level: float = 0.95, resamples: int = 20_000
) -> float:
    """Return the level that the intervals of several gains need, for all of their lower bounds to hold at once.

    Of many candidates that gain nothing some seem to, and those that are alike seem to together. Examples are
    drawn anew as in `paired_gain`, the same for every candidate. The lower bound of an interval of level 1 − 2a is
    the a-quantile of a candidate's draws; a is such that in (1 − level) / 2 of the draws some candidate lies below
    its own: balanced simultaneous confidence sets (Beran, 1988). For one candidate, or for copies of one, that is
    `level`; for n that have nothing in common about Bonferroni's 1 − (1 − level) / n.

    Args:
        better: numbers of the same tokens for each candidate, float64 [N]; infinite and NaN as for a single gain.
        worse: what they are compared with, float64 [N].
        example: the example of each token, int64 [N].
        level: at which all hold.
        resamples: bootstrap draws.

    >>> worse, example = torch.zeros(40, dtype=torch.float64), torch.arange(40)
    >>> one = torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> round(joint_level([one, one, one], worse, example), 3)
    0.95
    """
    examples, number = example.unique(return_inverse=True)
    both = torch.stack(list(better), dim=1) - worse[:, None]
    possible = both.isfinite()
    nothing = torch.zeros(len(examples), both.shape[1], dtype=torch.float64)
    gain = nothing.index_add(0, number, both.where(possible, 0.0))
    tokens = nothing.index_add(0, number, possible.double())
    means = _resampled(gain, tokens, resamples, seed=0).nan_to_num(nan=math.inf).T.contiguous()  # of no token
    rank = torch.searchsorted(means.sort(dim=1).values, means, right=True).amin(dim=0).double() / resamples
    return 1.0 - 2.0 * rank.quantile((1.0 - level) / 2.0).item()


def _resampled(gain: Tensor, tokens: Tensor, resamples: int, *, seed: int) -> Tensor:
    """Return the mean gain per token in bootstrap draws of the examples: sums [E, C] → [resamples, C]."""
    generator = torch.Generator().manual_seed(seed)
    examples, one = len(gain), torch.ones(1, 1, dtype=torch.float64)
    means, left = [], resamples
    while left:
        now = min(left, max(1, _CHUNK // examples))
        drawn = torch.randint(examples, (now, examples), generator=generator)
        times = torch.zeros(now, examples, dtype=torch.float64).scatter_add_(1, drawn, one.expand(now, examples))
        means.append((times @ gain) / (times @ tokens))
        left -= now
    return torch.cat(means)
