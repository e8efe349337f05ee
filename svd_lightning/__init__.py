"""Steering Vector Decoding on Lightning: warm start, calibrate, decode further in the same direction."""

from svd_lightning.artifact import load_artifact, save_artifact
from svd_lightning.callbacks import SteeringCalibration
from svd_lightning.decoding.model import steer_model
from svd_lightning.module import SteeredLanguageModel

__all__ = ["SteeredLanguageModel", "SteeringCalibration", "load_artifact", "save_artifact", "steer_model"]
