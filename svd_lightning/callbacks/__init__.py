"""Lightning callbacks: calibration, predictions, reports."""

from svd_lightning.callbacks.calibration import SteeringCalibration
from svd_lightning.callbacks.predictions import PredictionWriter
from svd_lightning.callbacks.requeue import RequeueBetweenBatches
from svd_lightning.callbacks.run_config import NewRunFolder
from svd_lightning.callbacks.run_log import RunLogFile
from svd_lightning.callbacks.stopping import StopBetweenBatches
from svd_lightning.callbacks.validations import ValidationHistory

__all__ = [
    "NewRunFolder",
    "PredictionWriter",
    "RequeueBetweenBatches",
    "RunLogFile",
    "SteeringCalibration",
    "StopBetweenBatches",
    "ValidationHistory",
]
