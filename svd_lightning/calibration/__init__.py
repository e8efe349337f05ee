"""What is measured: the compact calibration table, the objective on it, and the reference snapshot."""

from svd_lightning.calibration.comparison import Score, base_nll, score, tuned_nll
from svd_lightning.calibration.data import CalibrationData
from svd_lightning.calibration.objective import Evaluation, MaskedObjective, Objective, Shares, TokenObjective
from svd_lightning.calibration.snapshot import ReferenceSnapshot
from svd_lightning.calibration.streamed import StreamedObjective, TokenStream
from svd_lightning.calibration.table import CalibrationTable
from svd_lightning.calibration.tokens import TokenTable

__all__ = [
    "CalibrationData",
    "CalibrationTable",
    "Evaluation",
    "MaskedObjective",
    "Objective",
    "ReferenceSnapshot",
    "Score",
    "Shares",
    "StreamedObjective",
    "TokenObjective",
    "TokenStream",
    "TokenTable",
    "base_nll",
    "score",
    "tuned_nll",
]
