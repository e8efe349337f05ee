"""Lightning callbacks: calibration, predictions, reports."""

from svd_lightning.callbacks.calibration import SteeringCalibration
from svd_lightning.callbacks.predictions import PredictionWriter

__all__ = ["PredictionWriter", "SteeringCalibration"]
