"""What is tracked: torchmetrics that reduce over processes, each sample counted once."""

from svd_lightning.metrics.average import Average
from svd_lightning.metrics.completions import Completions, CompletionScores
from svd_lightning.metrics.exact_match import ExactMatch, exact_match
from svd_lightning.metrics.extraction import ExtractionAccuracy, extract_option, option_label
from svd_lightning.metrics.gain import Gain, paired_gain
from svd_lightning.metrics.judged import JudgedRate, both
from svd_lightning.metrics.mean_nll import MeanNLL
from svd_lightning.metrics.multiple_choice import ChoiceScores, MultipleChoice
from svd_lightning.metrics.options import OPTION_METRICS, OptionMetric, Options, accuracy, mc1, mc2, mc3
from svd_lightning.metrics.rouge_l import RougeL, rouge_l

__all__ = [
    "OPTION_METRICS",
    "Average",
    "ChoiceScores",
    "CompletionScores",
    "Completions",
    "ExactMatch",
    "ExtractionAccuracy",
    "Gain",
    "JudgedRate",
    "MeanNLL",
    "MultipleChoice",
    "OptionMetric",
    "Options",
    "RougeL",
    "accuracy",
    "both",
    "exact_match",
    "extract_option",
    "mc1",
    "mc2",
    "mc3",
    "option_label",
    "paired_gain",
    "rouge_l",
]
