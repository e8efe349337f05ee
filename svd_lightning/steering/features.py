"""Features: numbers of a position, known at decode time, on which the strength may depend."""

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

    The position within the completion cannot be a feature: steering sees distributions, not their place (which
    batches, beams, prefixes and assisted decoding change). A new feature is one class with this method; one in
    this file also takes an entry in `BUILT_IN_FEATURES`.
    """

    def value(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """Return the feature of each position, finite: [..., V], [..., V] → [...]."""
        ...


class Entropy:
    """f = H(p) / log V: 0 where the tuned model is certain, 1 where all tokens are as likely."""

    def value(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """Return −E_p[log p] as a share of its maximum."""
        return (-expectation(log_p, log_p) / math.log(max(log_p.shape[-1], 2))).clamp_min(0.0)


class Divergence:
    """f = KL / (1 + KL) with KL(p‖q) in nats: 0 where tuned and base agree, near 1 where they differ much."""

    def value(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """Return the divergence, mapped into [0, 1)."""
        kl = kl_from_log_probs(log_p, log_q).clamp_min(0.0)
        return kl / (1.0 + kl)


class Agreement:
    """f = 1 where the token that the tuned model ranks first is also first in the base, else 0."""

    def value(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """Return 1 where some token is first in both, ties included, else 0."""
        first_p = log_p == log_p.amax(dim=-1, keepdim=True)
        first_q = log_q == log_q.amax(dim=-1, keepdim=True)
        return torch.any(first_p & first_q, dim=-1).to(log_p.dtype)


BUILT_IN_FEATURES: tuple[type, ...] = (Entropy, Divergence, Agreement)
"""The features that checkpoints and artefacts may name."""


def feature_name(feature: Feature) -> str:
    """Return the name of a feature in tables and checkpoints: its class name.

    >>> feature_name(Entropy())
    'Entropy'
    """
    return type(feature).__name__


@dataclass(frozen=True)
class Contextual:
    """d ⊙ f: the direction of a rule, scaled at each position by a feature.

    `centre` and `direction` are the rule's; `whole_direction` and `TokenTable` multiply by the feature. A weight
    on it is one more convex coefficient: Σ_j w_j f_j is the strength at a position.
    """

    rule: SteeringRule
    """Gives the direction."""
    feature: Feature
    """Gives the scale at each position."""

    @property
    def name(self) -> str:
        """The names of rule and feature, joined by a dot."""
        return f"{type(self.rule).__name__}.{feature_name(self.feature)}"

    def centre(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """Return the rule's centre."""
        return self.rule.centre(log_p, log_q)

    def direction(self, log_p: Tensor, log_q: Tensor, centre: Tensor) -> Tensor:
        """Return the rule's direction, without the feature."""
        return self.rule.direction(log_p, log_q, centre)


def expand(rules: Sequence[SteeringRule], features: Sequence[Feature]) -> tuple[SteeringRule, ...]:
    """List every rule, alone and then times each feature: the directions that the weights belong to, in order."""
    return tuple(part for rule in rules for part in (rule, *(Contextual(rule, feature) for feature in features)))


def whole_direction(rule: SteeringRule, log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return a rule's direction on the whole vocabulary, times its feature if it has one: [..., V] → [..., V]."""
    direction = rule.direction(log_p, log_q, rule.centre(log_p, log_q).unsqueeze(-1))
    if isinstance(rule, Contextual):
        return direction * rule.feature.value(log_p, log_q).unsqueeze(-1)
    return direction
