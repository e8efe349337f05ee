"""How to steer: rules (directions in logit space), features, and the `Steering` that puts them together."""

from svd_lightning.steering.by_task import RowSteering, TaskSteering
from svd_lightning.steering.features import (
    BUILT_IN_FEATURES,
    Agreement,
    Contextual,
    Divergence,
    Entropy,
    Feature,
    expand,
    feature_name,
    whole_direction,
)
from svd_lightning.steering.rules import (
    BUILT_IN_RULES,
    ConfidentSet,
    KLGradient,
    NaturalGradient,
    SteeringRule,
    TaskAware,
    Temperature,
    VocabularyBound,
    rule_name,
    with_built_in,
)
from svd_lightning.steering.saved import as_plain, from_plain, tasks_as_plain, tasks_from_plain, with_short_paths
from svd_lightning.steering.steering import UNSTEERED, Distribution, Steering, SteeringFunction

__all__ = [
    "BUILT_IN_FEATURES",
    "BUILT_IN_RULES",
    "UNSTEERED",
    "Agreement",
    "ConfidentSet",
    "Contextual",
    "Distribution",
    "Divergence",
    "Entropy",
    "Feature",
    "KLGradient",
    "NaturalGradient",
    "RowSteering",
    "Steering",
    "SteeringFunction",
    "SteeringRule",
    "TaskAware",
    "TaskSteering",
    "Temperature",
    "VocabularyBound",
    "as_plain",
    "expand",
    "feature_name",
    "from_plain",
    "rule_name",
    "tasks_as_plain",
    "tasks_from_plain",
    "whole_direction",
    "with_built_in",
    "with_short_paths",
]
