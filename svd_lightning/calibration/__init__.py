"""What is measured: the compact calibration table and the objective on it."""

from svd_lightning.calibration.objective import (
    Evaluation,
    MaskedObjective,
    Objective,
    StreamedObjective,
)
from svd_lightning.calibration.table import CalibrationTable
from svd_lightning.calibration.tokens import TokenTable

__all__ = [
    "CalibrationTable",
    "Evaluation",
    "MaskedObjective",
    "Objective",
    "StreamedObjective",
    "TokenTable",
]
