"""How to steer: rules (directions in logit space) and the recipe that combines them."""

from svd_lightning.steering.by_task import RowSteering, TaskSteering
from svd_lightning.steering.confident_set import ConfidentSet
from svd_lightning.steering.contextual import Contextual, expand, whole_direction
from svd_lightning.steering.features import Agreement, Divergence, Entropy, Feature, feature_name
from svd_lightning.steering.kl_gradient import KLGradient
from svd_lightning.steering.natural_gradient import NaturalGradient
from svd_lightning.steering.rule import SteeringRule, VocabularyBound, rule_name
from svd_lightning.steering.saved import as_plain, from_plain, tasks_as_plain, tasks_from_plain, with_short_paths
from svd_lightning.steering.steering import Steering
from svd_lightning.steering.task_aware import TaskAware
from svd_lightning.steering.temperature import Temperature

__all__ = [
    "Agreement",
    "ConfidentSet",
    "Contextual",
    "Divergence",
    "Entropy",
    "Feature",
    "KLGradient",
    "NaturalGradient",
    "RowSteering",
    "Steering",
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
    "with_short_paths",
]
