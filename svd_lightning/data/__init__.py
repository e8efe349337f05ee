"""Datasets: examples, splits, token ids, batches."""

from svd_lightning.data.arc import ARC
from svd_lightning.data.boolq import BoolQ
from svd_lightning.data.choices import ChoiceDataModule
from svd_lightning.data.collate import Batch, PredictionBatch, PredictionCollator, ScoringBatch, ScoringCollator
from svd_lightning.data.commonsense import CommonsenseTask
from svd_lightning.data.commonsense_json import CommonsenseJSON
from svd_lightning.data.datamodule import CompletionDataModule
from svd_lightning.data.examples import ChoiceQuestion, Example, Message
from svd_lightning.data.hellaswag import HellaSwag
from svd_lightning.data.jsonl import JSONLData
from svd_lightning.data.jsonl_choices import JSONLChoices
from svd_lightning.data.mixture import Mixture
from svd_lightning.data.openbookqa import OpenBookQA
from svd_lightning.data.piqa import PIQA
from svd_lightning.data.recorded import RecordedChoices
from svd_lightning.data.sampler import LengthGroupedSampler
from svd_lightning.data.siqa import SIQA
from svd_lightning.data.splits import SplitSizes, cut, make_splits
from svd_lightning.data.tokenise import EncodedExample, encode
from svd_lightning.data.truthfulqa import TruthfulQA, TruthfulQuestion
from svd_lightning.data.winogrande import WinoGrande

__all__ = [
    "ARC",
    "PIQA",
    "SIQA",
    "Batch",
    "BoolQ",
    "ChoiceDataModule",
    "ChoiceQuestion",
    "CommonsenseJSON",
    "CommonsenseTask",
    "CompletionDataModule",
    "EncodedExample",
    "Example",
    "HellaSwag",
    "JSONLChoices",
    "JSONLData",
    "LengthGroupedSampler",
    "Message",
    "Mixture",
    "OpenBookQA",
    "PredictionBatch",
    "PredictionCollator",
    "RecordedChoices",
    "ScoringBatch",
    "ScoringCollator",
    "SplitSizes",
    "TruthfulQA",
    "TruthfulQuestion",
    "WinoGrande",
    "cut",
    "encode",
    "make_splits",
]
