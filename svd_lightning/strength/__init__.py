"""How far to steer: estimators of the strength, pure functions of the objective."""

from svd_lightning.strength.closed_forms import CLOSED_FORMS, Fixed, Mean, Median, Newton, Sequence, TrimmedMean
from svd_lightning.strength.estimator import Estimate, StrengthEstimator, estimator_name, token_strengths
from svd_lightning.strength.line_search import LineSearch, estimate_all
from svd_lightning.strength.online import OnlineStrength

__all__ = [
    "CLOSED_FORMS",
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
    "estimate_all",
    "estimator_name",
    "token_strengths",
]
