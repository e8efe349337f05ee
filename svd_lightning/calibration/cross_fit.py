"""Does steering help at all, by how much beyond sharpening, and with what certainty."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from svd_lightning.errors import InputError
from svd_lightning.objective import CalibrationTokens, objective
from svd_lightning.steering import SteeringRule
from svd_lightning.strength.estimator import StrengthEstimator

_CHUNK = 2**24
"""Numbers drawn at once in the bootstrap: 128 MiB."""


@dataclass(frozen=True)
class Gain:
    """A gain in nats per token, positive when better, with its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def sure(self) -> bool:
        """Whether the interval lies above zero."""
        return self.low > 0.0


def cross_fit(
    data: CalibrationTokens,
    rules: Sequence[SteeringRule],
    estimator: StrengthEstimator,
    *,
    penalty: float,
    folds: int,
    whole: Sequence[float] | None = None,
    seed: int = 0,
) -> Tensor:
    """Held-out log-probability of every label: strengths from the other folds, float64 [N].

    Folds are cut by example, so that no example helps to steer itself. With λ = −∞ tokens whose label lies
    outside the mask have log-probability −∞ whatever the strength.

    Args:
        data: the calibration tokens.
        rules: the directions.
        estimator: fits the strengths of each fold.
        penalty: λ of decoding.
        folds: how many.
        whole: the estimator's strengths on all examples, where they are known: the folds begin there.
        seed: of the cut.

    Raises:
        InputError: for fewer examples than folds.
    """
    numbers, fold = example_folds(data.example, folds, seed=seed)
    problem = objective(data, rules, penalty=penalty)
    begin = torch.tensor(estimator(problem).strengths if whole is None else whole, dtype=torch.float64)

    def held_out(number: int) -> Tensor:
        fitted = estimator(problem.counting(numbers[fold != number], start=begin))
        return problem.label_log_probs(torch.tensor(fitted.strengths, dtype=torch.float64))

    possible = possible_labels(data, penalty)
    found = torch.full((data.num_tokens,), -math.inf, dtype=torch.float64)
    for number, here in enumerate(data.map(held_out, range(folds))):
        mine = torch.isin(data.example, numbers[fold == number])
        found[mine & possible] = here[mine[possible]]
    return found


def label_log_probs(
    data: CalibrationTokens, rules: Sequence[SteeringRule], strengths: Tensor, *, penalty: float
) -> Tensor:
    """Steered log-probability of each token's label, float64 [N]; −∞ where λ = −∞ forbids it."""
    possible = possible_labels(data, penalty)
    found = torch.full((data.num_tokens,), -math.inf, dtype=torch.float64)
    if possible.any():
        found[possible] = objective(data, rules, penalty=penalty).label_log_probs(strengths)
    return found


def possible_labels(data: CalibrationTokens, penalty: float) -> Tensor:
    """Tokens whose label can be generated, bool [N]: those that the objective tells about."""
    return data.covered if penalty == -math.inf else torch.ones_like(data.covered)


def paired_gain(better: Tensor, worse: Tensor, example: Tensor, *, resamples: int = 1000, seed: int = 0) -> Gain:
    """Mean of better − worse per token, with a paired bootstrap interval over examples.

    Args:
        better, worse: log-probabilities of the same labels, float64 [N]; −∞ in both leaves a token out.
        example: the example of each token, int64 [N]; tokens of one example are drawn together.
        resamples: bootstrap draws.
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
    means, left = [], resamples
    while left:
        now = min(left, max(1, _CHUNK // examples))
        drawn = torch.randint(examples, (now, examples), generator=generator)
        means.append(gain[drawn].sum(dim=1) / tokens[drawn].sum(dim=1))
        left -= now
    low, high = torch.cat(means).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Gain((gain.sum() / tokens.sum()).item(), low, high)


def example_folds(example: Tensor, folds: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The numbers of the examples, [E], and the fold of each, [E]."""
    numbers = example.unique()
    if len(numbers) < folds:
        raise InputError(
            f"guard: expected at least {folds} calibration examples, one per fold, got {len(numbers)}; "
            "give a larger calibration split, or fewer folds"
        )
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(seed))
    return numbers, order % folds
