"""Metrics of torchmetrics' kind that reduce over processes and count each sample once."""

from svd_lightning.metrics.gain import Gain, joint_level, paired_gain
from svd_lightning.metrics.keyed_rows import GatheredRows
from svd_lightning.metrics.likelihood import (
    Completions,
    CompletionScores,
    ExampleScores,
    MeanNLL,
    ScoredExamples,
)
from svd_lightning.metrics.multiple_choice import ChoiceScores, MultipleChoice
from svd_lightning.metrics.options import OPTION_METRICS, OptionMetric, Options, accuracy, log_mc2, mc1, mc2, mc3
from svd_lightning.metrics.written import (
    Average,
    ExactMatch,
    ExtractionAccuracy,
    JudgedRate,
    RougeL,
    both,
    exact_match,
    extract_option,
    option_label,
    repeated_trigrams,
    rouge_l,
)

__all__ = [
    "OPTION_METRICS",
    "Average",
    "ChoiceScores",
    "CompletionScores",
    "Completions",
    "ExactMatch",
    "ExampleScores",
    "ExtractionAccuracy",
    "Gain",
    "GatheredRows",
    "JudgedRate",
    "MeanNLL",
    "MultipleChoice",
    "OptionMetric",
    "Options",
    "RougeL",
    "ScoredExamples",
    "accuracy",
    "both",
    "exact_match",
    "extract_option",
    "joint_level",
    "log_mc2",
    "mc1",
    "mc2",
    "mc3",
    "option_label",
    "paired_gain",
    "repeated_trigrams",
    "rouge_l",
]
