"""The quantities that a pass over the vocabulary computes, chunk by chunk."""

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from svd_lightning.functional import expectation, log_probabilities, strength_terms
from svd_lightning.steering import SteeringRule, whole_direction

Key = tuple[object, ...]


def identity(rule: SteeringRule) -> object:
    """Return what tells a rule from others: its class, or itself if it has attributes."""
    return id(rule) if getattr(rule, "__dict__", True) else type(rule)


class View:
    """A chunk of tokens, and what several quantities need of it, computed once.

    Args:
        tuned_logits, base_logits: [n, V].
        labels: int64 [n].
    """

    def __init__(self, tuned_logits: Tensor, base_logits: Tensor, labels: Tensor) -> None:
        self._narrow_p, self._narrow_q = log_probabilities(tuned_logits), log_probabilities(base_logits)
        self.labels = labels
        self._directions: dict[object, Tensor] = {}

    @cached_property
    def log_p(self) -> Tensor:
        """Tuned log-probabilities, float64 [n, V]."""
        return self._narrow_p.double()

    @cached_property
    def log_q(self) -> Tensor:
        """Base log-probabilities, float64 [n, V]."""
        return self._narrow_q.double()

    @cached_property
    def normaliser(self) -> Tensor:
        """Log-normaliser of `log_p`, [n]: not quite 0 where it comes from single precision."""
        return self.log_p.logsumexp(dim=-1)

    def select(self, rows: Tensor) -> "View":
        """Some of the tokens, int64 [m]."""
        part = object.__new__(View)
        part._narrow_p, part._narrow_q, part.labels = self._narrow_p[rows], self._narrow_q[rows], self.labels[rows]
        part._directions = {}
        return part

    def direction(self, rule: SteeringRule) -> Tensor:
        """The rule's direction, as decoding has it, in float64 [n, V]."""
        key = identity(rule)
        if key not in self._directions:
            self._directions[key] = whole_direction(rule, self._narrow_p, self._narrow_q).double()
        return self._directions[key]

    def at_label(self, values: Tensor) -> Tensor:
        """The label's entry, [n, V] → [n]."""
        return values.gather(-1, self.labels.unsqueeze(-1)).squeeze(-1)


class Quantity(Protocol):
    """Numbers of every token, and numbers that are summed over the tokens of each example."""

    @property
    def key(self) -> Key:
        """Quantities with the same key are the same."""
        ...

    @property
    def widths(self) -> tuple[int, int]:
        """How many numbers there are of a token, and of an example."""
        ...

    @property
    def among(self) -> Tensor | None:
        """The examples that are measured, bool [E]; None for all. The others are 0."""
        ...

    def measure(self, view: View) -> tuple[Tensor, Tensor]:
        """Return the numbers of each token of a chunk [n, a], and what it adds to its example's [n, b]."""
        ...


class Labels:
    """Of a token: log p and log q of the label, KL(p‖q)."""

    key: Key = ("labels",)
    widths = (3, 0)
    among = None

    def measure(self, view: View) -> tuple[Tensor, Tensor]:
        """Nothing needs a rule."""
        kl = expectation(view.log_p, view.log_p - view.log_q)
        tokens = torch.stack([view.at_label(view.log_p), view.at_label(view.log_q), kl], dim=-1)
        return tokens, tokens[:, :0]


class Slopes:
    """Of a token: b, ‖d‖² and Var_p[d] of one direction at μ = 0."""

    widths = (3, 0)
    among = None

    def __init__(self, rule: SteeringRule) -> None:
        self._rule = rule

    @property
    def key(self) -> Key:
        """The rule."""
        return "slopes", identity(self._rule)

    def measure(self, view: View) -> tuple[Tensor, Tensor]:
        """`strength_terms`."""
        tokens = torch.stack(strength_terms(view.log_p, view.direction(self._rule), view.labels), dim=-1)
        return tokens, tokens[:, :0]


class Steered:
    """Steering along some directions: of a token log p_μ of the label, and whether it ranks first.

    Of an example, summed over its tokens: KL(p_μ ‖ p_0), the gradient [k] and the Hessian [k, k] of the NLL.

    Args:
        rules: the directions d_k.
        strengths: μ, [k].
        among: the examples that matter, bool [E]; None for all.
    """

    def __init__(self, rules: Sequence[SteeringRule], strengths: Tensor, *, among: Tensor | None = None) -> None:
        self._rules, self.among = tuple(rules), among
        self._strengths: list[float] = strengths.tolist()

    @property
    def key(self) -> Key:
        """Rules, strengths and examples."""
        among = None if self.among is None else self.among.numpy().tobytes()
        return "steered", *map(identity, self._rules), *self._strengths, among

    @property
    def widths(self) -> tuple[int, int]:
        """Two of a token."""
        k = len(self._rules)
        return 2, 1 + k + k * k

    def measure(self, view: View) -> tuple[Tensor, Tensor]:
        """One exponential of [n, V], and a product of it for each direction and each pair."""
        directions = [view.direction(rule) for rule in self._rules]
        steered = view.log_p
        for direction, strength in zip(directions, self._strengths, strict=True):
            steered = torch.add(steered, direction, alpha=strength)
        normaliser, label = steered.logsumexp(dim=-1), view.at_label(steered)
        first = label >= steered.amax(dim=-1)
        p = (steered - normaliser.unsqueeze(-1)).exp()
        means = [_inner(p, direction) for direction in directions]
        centred = [p * (d - mean.unsqueeze(-1)) for d, mean in zip(directions, means, strict=True)]
        shift = sum(strength * mean for strength, mean in zip(self._strengths, means, strict=True))
        columns = [shift - (normaliser - view.normaliser)]
        columns += [mean - view.at_label(d) for d, mean in zip(directions, means, strict=True)]
        columns += [_inner(weighted, d) for weighted in centred for d in directions]
        return torch.stack([label - normaliser, first.double()], dim=-1), torch.stack(columns, dim=-1)


def _inner(left: Tensor, right: Tensor) -> Tensor:
    """Σ_v a_v b_v without a tensor of the products: [n, V], [n, V] → [n]."""
    return torch.bmm(left.unsqueeze(1), right.unsqueeze(2)).flatten()
