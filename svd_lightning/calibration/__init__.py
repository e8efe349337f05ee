"""Calibration: from labelled tokens to the strengths that steer, and everything a user should know about them."""

from svd_lightning.calibration.calibrate import calibrate
from svd_lightning.calibration.corrections import (
    FittedCorrection,
    LabelSplit,
    as_collected,
    fit_corrections,
    rescored,
)
from svd_lightning.calibration.describe import Outcome, describe, describe_tasks, outcome
from svd_lightning.calibration.masks import PAPER_ALPHAS
from svd_lightning.calibration.noise import add_noise, noise_in_words
from svd_lightning.calibration.recall import NONE, HeldOutSteering, recall, recall_all, rescore
from svd_lightning.calibration.recipes import CONTROL, joint_recipe
from svd_lightning.calibration.scale import fit_scale
from svd_lightning.calibration.verdict import AS_IT_IS, in_use, withhold

__all__ = [
    "AS_IT_IS",
    "CONTROL",
    "NONE",
    "PAPER_ALPHAS",
    "FittedCorrection",
    "HeldOutSteering",
    "LabelSplit",
    "Outcome",
    "add_noise",
    "as_collected",
    "calibrate",
    "describe",
    "describe_tasks",
    "fit_corrections",
    "fit_scale",
    "in_use",
    "joint_recipe",
    "noise_in_words",
    "outcome",
    "recall",
    "recall_all",
    "rescore",
    "rescored",
    "withhold",
]
