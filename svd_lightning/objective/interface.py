"""What an objective K is, and what can be asked of it."""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from svd_lightning.errors import InputError
from svd_lightning.functional import StrengthTerms
from svd_lightning.steering import Contextual, SteeringRule


class Evaluation(NamedTuple):
    """K and its derivatives at one μ, float64."""

    nll: float
    """K(μ), nats per token."""
    gradient: Tensor
    """dK/dμ_k, [k]."""
    hessian: Tensor
    """d²K/dμ_k dμ_l, [k, k]."""


class ExampleSums(NamedTuple):
    """What each example adds to K and its derivatives, in ascending order of the examples' numbers."""

    tokens: Tensor
    """How many of its tokens count, int64 [E]."""
    log_prob: Tensor
    """log p_μ of the labels, summed over them, float64 [E]."""
    gradient: Tensor
    """dK/dμ_k summed over them, float64 [E, k]."""
    hessian: Tensor
    """d²K/dμ_k dμ_l summed over them, float64 [E, k, k]."""


class Objective(Protocol):
    """What a strength estimator may ask."""

    @property
    def num_directions(self) -> int:
        """k."""
        ...

    @property
    def start(self) -> Tensor:
        """Where a search begins, float64 [k]. Affects speed only, where K is convex."""
        ...

    @property
    def contextual(self) -> Tensor:
        """Which directions are a rule times a feature, bool [k]: their weights are held back."""
        ...

    def evaluate(self, strengths: Tensor) -> Evaluation:
        """Return K, gradient and Hessian at μ, float64 [k]."""
        ...

    def divergence(self, strengths: Tensor) -> float:
        """Return the mean KL(p_μ ‖ p_0) in nats: how far the steering moves the distribution."""
        ...

    def terms(self) -> StrengthTerms:
        """Return the per-token slope and curvatures of a single direction at μ = 0, under the whole p."""
        ...


@runtime_checkable
class TokenObjective(Objective, Protocol):
    """An objective that also answers for each token and for some examples alone, as comparing recipes needs."""

    @property
    def examples(self) -> Tensor:
        """Numbers of the examples that count, int64 [E], ascending."""
        ...

    def label_log_probs(self, strengths: Tensor) -> Tensor:
        """Return the steered log-probability of each label, float64 [N]; for choices of each question, [Q]."""
        ...

    def example_sums(self, strengths: Tensor) -> ExampleSums:
        """Return what each example that counts adds to K, its gradient and its Hessian at μ."""
        ...

    def counting(self, examples: Tensor, *, start: Tensor) -> "TokenObjective":
        """Return K over these examples; the others stay loaded (for folds).

        Args:
            examples: their numbers, int64.
            start: where a search begins, float64 [k].
        """
        ...

    def restricted(self, examples: Tensor) -> "TokenObjective":
        """Return K on the tokens of these examples (int64 numbers) alone; costs only them."""
        ...


class Along:
    """Base of every objective along some directions.

    Args:
        rules: the directions d_k.
    """

    def __init__(self, rules: Sequence[SteeringRule]) -> None:
        self._rules = tuple(rules)
        self.num_directions = len(self._rules)
        self.start = torch.zeros(self.num_directions, dtype=torch.float64)
        self.contextual = torch.tensor([isinstance(rule, Contextual) for rule in self._rules])


@runtime_checkable
class Outer(Protocol):
    """An objective that is computed from another one's answers at the same strengths."""

    inner: Objective


class Priced:
    """K(μ) + ½ (μ − c)ᵀ P (μ − c): an objective with a price on strengths away from a centre; convex if K is.

    Args:
        objective: K.
        price: P, positive semi-definite, [k, k].
        centre: c, float64 [k].
        start: where a search begins, float64 [k].
    """

    def __init__(self, objective: Objective, price: Tensor, *, centre: Tensor, start: Tensor) -> None:
        self.inner, self._price, self._centre, self.start = objective, price, centre, start
        self.num_directions = objective.num_directions
        self.contextual = torch.zeros(self.num_directions, dtype=torch.bool)  # no weight pays twice

    def evaluate(self, strengths: Tensor) -> Evaluation:
        """Return value, gradient and Hessian, the price included."""
        at, away = self.inner.evaluate(strengths), strengths - self._centre
        pull = self._price @ away
        return Evaluation(at.nll + 0.5 * (away @ pull).item(), at.gradient + pull, at.hessian + self._price)

    def divergence(self, strengths: Tensor) -> float:
        """Return the mean KL(p_μ ‖ p_0) in nats; the price does not change it."""
        return self.inner.divergence(strengths)

    def terms(self) -> StrengthTerms:
        """Return the per-token slope and curvatures of K, without the price."""
        return self.inner.terms()


def judged_penalty(penalty: float) -> float:
    """Return λ of the distribution under which labels are scored: that of decoding, but 0 for −∞.

    −∞ makes every label outside the mask infinitely unlikely, whatever the strengths. With 0 the tuned logits stay
    there: the mask silences the steering, all labels count, and a steering that takes from them what it gives to
    the confident tokens pays for it.
    """
    return 0.0 if penalty == -math.inf else penalty


def single(rules: tuple[SteeringRule, ...]) -> SteeringRule:
    """Return the only rule.

    Raises:
        InputError: for several.
    """
    if len(rules) != 1:
        raise InputError(
            f"estimator: this one is defined for a single rule, got {len(rules)}; use LineSearch for several"
        )
    return rules[0]
