"""Datasets: examples, splits, token ids, batches."""

from svd_lightning.data.choices import ChoiceDataModule
from svd_lightning.data.collate import PredictionBatch, PredictionCollator, ScoringBatch, ScoringCollator
from svd_lightning.data.datamodule import CompletionDataModule
from svd_lightning.data.examples import ChoiceQuestion, Example, Message
from svd_lightning.data.jsonl import JSONLData
from svd_lightning.data.sampler import LengthGroupedSampler
from svd_lightning.data.splits import SplitSizes, cut, make_splits
from svd_lightning.data.tokenise import EncodedExample, encode
from svd_lightning.data.truthfulqa import TruthfulQA, TruthfulQuestion

__all__ = [
    "ChoiceDataModule",
    "ChoiceQuestion",
    "CompletionDataModule",
    "EncodedExample",
    "Example",
    "JSONLData",
    "LengthGroupedSampler",
    "Message",
    "PredictionBatch",
    "PredictionCollator",
    "ScoringBatch",
    "ScoringCollator",
    "SplitSizes",
    "TruthfulQA",
    "TruthfulQuestion",
    "cut",
    "encode",
    "make_splits",
]
