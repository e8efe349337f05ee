"""Datasets: examples, splits, token ids, batches."""

from svd_lightning.data.choices import ChoiceDataModule, RecordedChoices
from svd_lightning.data.collate import Batch, PredictionBatch, PredictionCollator, ScoringBatch, ScoringCollator
from svd_lightning.data.commonsense.ready_made import CommonsenseJSON
from svd_lightning.data.commonsense.sets import ARC, PIQA, SIQA, BoolQ, HellaSwag, OpenBookQA, WinoGrande
from svd_lightning.data.commonsense.task import CommonsenseTask
from svd_lightning.data.control_tokens import answer_ends
from svd_lightning.data.datamodule import CompletionDataModule
from svd_lightning.data.examples import ChoiceQuestion, Example, Message
from svd_lightning.data.jsonl import JSONLChoices, JSONLData, Prompts
from svd_lightning.data.mixture import Mixture
from svd_lightning.data.questions import QuestionBatch
from svd_lightning.data.sampler import LengthGroupedSampler
from svd_lightning.data.source_rows import SourceRow, read_rows
from svd_lightning.data.splits import SplitSizes, cut, make_splits
from svd_lightning.data.tokenise import EncodedExample, encode
from svd_lightning.data.truthfulqa import TruthfulQA, TruthfulQuestion

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
    "Prompts",
    "QuestionBatch",
    "RecordedChoices",
    "ScoringBatch",
    "ScoringCollator",
    "SourceRow",
    "SplitSizes",
    "TruthfulQA",
    "TruthfulQuestion",
    "WinoGrande",
    "answer_ends",
    "cut",
    "encode",
    "make_splits",
    "read_rows",
]
