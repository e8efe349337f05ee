"""Features: numbers known of a position at decode time, on which the strength may depend."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from svd_lightning.functional import expectation, kl_from_log_probs
from svd_lightning.steering.rules import SteeringRule


@runtime_checkable
class Feature(Protocol):
    """One number per position from both models' distributions, of the order of 1 whatever the data.

    The position within the completion is no feature: steering sees distributions, not where they stand (a
    prompt's last token and a later one look alike in a batch, and beams, prefixes and assisted decoding move
    it). A new feature is one class with this method; here it takes an entry in `BUILT_IN_FEATURES` besides.
    """

    def value(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """The feature of each position, finite: [..., V], [..., V] → [...]."""
        ...


class Entropy:
    """f = H(p) / log V: 0 where the tuned model is certain, 1 where it knows nothing."""

    def value(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """−E_p[log p] as a share of its maximum."""
        return (-expectation(log_p, log_p) / math.log(max(log_p.shape[-1], 2))).clamp_min(0.0)


class Divergence:
    """f = KL / (1 + KL) with KL(p‖q) in nats: 0 where tuned and base agree, near 1 where they part."""

    def value(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """The divergence, squeezed into [0, 1)."""
        kl = kl_from_log_probs(log_p, log_q).clamp_min(0.0)
        return kl / (1.0 + kl)


class Agreement:
    """f = 1 where the token that the tuned model ranks first is also first in the base, else 0."""

    def value(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """Whether some token is first in both: ties count, the order of the vocabulary does not."""
        first_p = log_p == log_p.amax(dim=-1, keepdim=True)
        first_q = log_q == log_q.amax(dim=-1, keepdim=True)
        return torch.any(first_p & first_q, dim=-1).to(log_p.dtype)


BUILT_IN_FEATURES: tuple[type, ...] = (Entropy, Divergence, Agreement)
"""The features that checkpoints and artefacts may name."""


def feature_name(feature: Feature) -> str:
    """Return the name under which tables and checkpoints know a feature: its class name.

    >>> feature_name(Entropy())
    'Entropy'
    """
    return type(feature).__name__


@dataclass(frozen=True)
class Contextual:
    """d ⊙ f: the direction of a rule, scaled at each position by a feature.

    `centre` and `direction` are the rule's own; whoever knows the positions multiplies (`whole_direction`, the
    calibration table). A weight on it is one more convex coefficient: Σ_j w_j f_j is the strength at a position.
    """

    rule: SteeringRule
    """Where to."""
    feature: Feature
    """How far, position by position."""

    @property
    def name(self) -> str:
        """Rule and feature."""
        return f"{type(self.rule).__name__}.{feature_name(self.feature)}"

    def centre(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """The rule's."""
        return self.rule.centre(log_p, log_q)

    def direction(self, log_p: Tensor, log_q: Tensor, centre: Tensor) -> Tensor:
        """The rule's, before the feature."""
        return self.rule.direction(log_p, log_q, centre)


def expand(rules: Sequence[SteeringRule], features: Sequence[Feature]) -> tuple[SteeringRule, ...]:
    """List every rule, alone and then times each feature: the directions that the weights belong to, in order."""
    return tuple(part for rule in rules for part in (rule, *(Contextual(rule, feature) for feature in features)))


def whole_direction(rule: SteeringRule, log_p: Tensor, log_q: Tensor) -> Tensor:
    """A rule's direction on the whole vocabulary, times its feature if it has one: [..., V] → [..., V]."""
    direction = rule.direction(log_p, log_q, rule.centre(log_p, log_q).unsqueeze(-1))
    if isinstance(rule, Contextual):
        return direction * rule.feature.value(log_p, log_q).unsqueeze(-1)
    return direction
