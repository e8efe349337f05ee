"""What is tracked: torchmetrics that reduce over processes, each sample counted once."""

from svd_lightning.metrics.completions import Completions, CompletionScores
from svd_lightning.metrics.mean_nll import MeanNLL
from svd_lightning.metrics.multiple_choice import ChoiceScores, MultipleChoice
from svd_lightning.metrics.options import OPTION_METRICS, OptionMetric, Options, accuracy, mc1, mc2, mc3

__all__ = [
    "OPTION_METRICS",
    "ChoiceScores",
    "CompletionScores",
    "Completions",
    "MeanNLL",
    "MultipleChoice",
    "OptionMetric",
    "Options",
    "accuracy",
    "mc1",
    "mc2",
    "mc3",
]
