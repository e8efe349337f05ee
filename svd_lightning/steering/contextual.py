"""Directions whose strength depends on the position: a rule times a feature."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from svd_lightning.steering.features import Feature, feature_name
from svd_lightning.steering.rule import SteeringRule


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
    """Every rule, alone and then times each feature: the directions that the weights belong to, in order."""
    return tuple(part for rule in rules for part in (rule, *(Contextual(rule, feature) for feature in features)))


def whole_direction(rule: SteeringRule, log_p: Tensor, log_q: Tensor) -> Tensor:
    """A rule's direction on the whole vocabulary, times its feature if it has one: [..., V] → [..., V]."""
    direction = rule.direction(log_p, log_q, rule.centre(log_p, log_q).unsqueeze(-1))
    if isinstance(rule, Contextual):
        return direction * rule.feature.value(log_p, log_q).unsqueeze(-1)
    return direction
