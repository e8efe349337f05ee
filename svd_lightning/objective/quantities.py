"""The quantities that a pass over the vocabulary computes, chunk by chunk."""

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from svd_lightning.functional import (
    at_label,
    kl_from_log_probs,
    label_nll,
    log_probabilities,
    objective_terms,
    steer,
    strength_terms,
)
from svd_lightning.steering import SteeringRule, whole_direction

Key = tuple[object, ...]


def identity(rule: SteeringRule) -> object:
    """Return what tells a rule from others: its class, or the object if it has attributes."""
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
    def tuned_nll(self) -> Tensor:
        """K at μ = 0, [n]; `log_p` alone will not do: from single precision it is not quite normalised."""
        return label_nll(self.log_p, self.labels)

    def select(self, rows: Tensor) -> "View":
        """Return the view of some of the tokens, int64 [m]."""
        part = object.__new__(View)
        part._narrow_p, part._narrow_q, part.labels = self._narrow_p[rows], self._narrow_q[rows], self.labels[rows]
        part._directions = {}
        return part

    def direction(self, rule: SteeringRule) -> Tensor:
        """Return the rule's direction as decoding computes it, in float64 [n, V]."""
        key = identity(rule)
        if key not in self._directions:
            self._directions[key] = whole_direction(rule, self._narrow_p, self._narrow_q).double()
        return self._directions[key]


class Quantity(Protocol):
    """What a pass computes: numbers of every token, and numbers that are summed over each example's tokens."""

    @property
    def key(self) -> Key:
        """Quantities with the same key are the same."""
        ...

    @property
    def widths(self) -> tuple[int, int]:
        """How many numbers a token has, and an example."""
        ...

    @property
    def among(self) -> Tensor | None:
        """The examples that are measured, bool [E]; None for all. The others are 0."""
        ...

    def measure(self, view: View) -> tuple[Tensor, Tensor]:
        """Return the numbers of each token of a chunk [n, a], and what it adds to its example's [n, b]."""
        ...


class Labels:
    """Each token's log p and log q of the label, and KL(p‖q)."""

    key: Key = ("labels",)
    widths = (3, 0)
    among = None

    def measure(self, view: View) -> tuple[Tensor, Tensor]:
        """Return the three numbers of each token, and none of an example."""
        kl = kl_from_log_probs(view.log_p, view.log_q)
        at_labels = [at_label(log_probs, view.labels) for log_probs in (view.log_p, view.log_q)]
        tokens = torch.stack([*at_labels, kl], dim=-1)
        return tokens, tokens[:, :0]


class Slopes:
    """Each token's b, ‖d‖² and Var_p[d] along one direction at μ = 0."""

    widths = (3, 0)
    among = None

    def __init__(self, rule: SteeringRule) -> None:
        self._rule = rule

    @property
    def key(self) -> Key:
        """The same for the same rule."""
        return "slopes", identity(self._rule)

    def measure(self, view: View) -> tuple[Tensor, Tensor]:
        """Return the `strength_terms` of each token, and nothing of an example."""
        tokens = torch.stack(strength_terms(view.log_p, view.direction(self._rule), view.labels), dim=-1)
        return tokens, tokens[:, :0]


class Steered:
    """Each token's log p_μ of the label, and whether the label ranks first, when steered along some directions.

    An example has its tokens' sums of KL(p_μ ‖ p_0), and of the gradient [k] and Hessian [k, k] of the NLL.

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
        """The same for the same rules, strengths and examples."""
        among = None if self.among is None else self.among.numpy().tobytes()
        return "steered", *map(identity, self._rules), *self._strengths, among

    @property
    def widths(self) -> tuple[int, int]:
        """Two numbers of a token, 1 + k + k² of an example."""
        k = len(self._rules)
        return 2, 1 + k + k * k

    def measure(self, view: View) -> tuple[Tensor, Tensor]:
        """Return the numbers of each token, and what it adds to its example's: KL, gradient and Hessian.

        KL(p_μ ‖ p_0) = μ·∇K(μ) − (K(μ) − K(0)) follows from the `objective_terms`.
        """
        directions = [view.direction(rule) for rule in self._rules]
        steered = steer(view.log_p, directions, None, strength=self._strengths, penalty=0.0)
        nll, gradient, hessian = objective_terms(steered, directions, view.labels)
        first = at_label(steered, view.labels) >= steered.amax(dim=-1)
        divergence = gradient @ gradient.new_tensor(self._strengths) - (nll - view.tuned_nll)
        sums = torch.cat([divergence.unsqueeze(-1), gradient, hessian.flatten(1)], dim=-1)
        return torch.stack([-nll, first.double()], dim=-1), sums
