"""What is minimised: calibration tokens, the objective K(μ) on them, and the snapshot of the base."""

from svd_lightning.objective.collect import CalibrationTable
from svd_lightning.objective.interface import CalibrationData
from svd_lightning.objective.masked import Evaluation, MaskedObjective, Objective, Shares, TokenObjective
from svd_lightning.objective.snapshot import ReferenceSnapshot
from svd_lightning.objective.stream import StreamedObjective, TokenStream
from svd_lightning.objective.tokens import TokenTable

__all__ = [
    "CalibrationData",
    "CalibrationTable",
    "Evaluation",
    "MaskedObjective",
    "Objective",
    "ReferenceSnapshot",
    "Shares",
    "StreamedObjective",
    "TokenObjective",
    "TokenStream",
    "TokenTable",
]
