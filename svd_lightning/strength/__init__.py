"""How far to steer: estimators of the strength, pure functions of the calibration objective."""

from svd_lightning.strength.calibrate import calibrate
from svd_lightning.strength.candidates import CONTROL, joint_recipe, known_rules, recall, recall_all, rescore
from svd_lightning.strength.description import describe, describe_tasks
from svd_lightning.strength.estimate import Estimate, StrengthEstimator, estimator_name
from svd_lightning.strength.fixed import Fixed
from svd_lightning.strength.guard import paired_gain
from svd_lightning.strength.line_search import LineSearch
from svd_lightning.strength.mean import Mean
from svd_lightning.strength.median import Median
from svd_lightning.strength.newton import Newton
from svd_lightning.strength.online import OnlineStrength
from svd_lightning.strength.sequence import Sequence
from svd_lightning.strength.sweep import PAPER_ALPHAS
from svd_lightning.strength.trimmed_mean import TrimmedMean

__all__ = [
    "CONTROL",
    "PAPER_ALPHAS",
    "Estimate",
    "Fixed",
    "LineSearch",
    "Mean",
    "Median",
    "Newton",
    "OnlineStrength",
    "Sequence",
    "StrengthEstimator",
    "TrimmedMean",
    "calibrate",
    "describe",
    "describe_tasks",
    "estimator_name",
    "joint_recipe",
    "known_rules",
    "paired_gain",
    "recall",
    "recall_all",
    "rescore",
]
