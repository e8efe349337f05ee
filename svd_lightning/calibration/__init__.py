"""Calibration: from labelled tokens to the strengths that steer, and everything a user should know about them."""

from svd_lightning.calibration.calibrate import calibrate
from svd_lightning.calibration.candidates import (
    CONTROL,
    joint_recipe,
    recall,
    recall_all,
    rescore,
)
from svd_lightning.calibration.comparison import Score, base_nll, score, tuned_nll
from svd_lightning.calibration.describe import describe, describe_tasks
from svd_lightning.calibration.masks import PAPER_ALPHAS

__all__ = [
    "CONTROL",
    "PAPER_ALPHAS",
    "Score",
    "base_nll",
    "calibrate",
    "describe",
    "describe_tasks",
    "joint_recipe",
    "recall",
    "recall_all",
    "rescore",
    "score",
    "tuned_nll",
]
