"""Labelled batches under base, tuned and steered: calibration tokens, validation and test."""

from svd_lightning.scoring.collect import Collector, collector
from svd_lightning.scoring.cost import decoding_costs
from svd_lightning.scoring.drift import DriftMeter
from svd_lightning.scoring.free_decoding import FreeDecoding
from svd_lightning.scoring.held_out import HeldOut, Likelihood
from svd_lightning.scoring.labels import score_tokens
from svd_lightning.scoring.noise import NoiseMeter
from svd_lightning.scoring.scaled import scaled_collector
from svd_lightning.scoring.summary import scalars

__all__ = [
    "Collector",
    "DriftMeter",
    "FreeDecoding",
    "HeldOut",
    "Likelihood",
    "NoiseMeter",
    "collector",
    "decoding_costs",
    "scalars",
    "scaled_collector",
    "score_tokens",
]
