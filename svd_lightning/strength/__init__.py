"""How far to steer: estimators of the strength, pure functions of the objective."""

from svd_lightning.strength.estimator import Estimate, StrengthEstimator, estimator_name
from svd_lightning.strength.fixed import Fixed
from svd_lightning.strength.line_search import LineSearch
from svd_lightning.strength.mean import Mean
from svd_lightning.strength.median import Median
from svd_lightning.strength.newton import Newton
from svd_lightning.strength.online import OnlineStrength
from svd_lightning.strength.sequence import Sequence
from svd_lightning.strength.trimmed_mean import TrimmedMean

__all__ = [
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
    "estimator_name",
]
