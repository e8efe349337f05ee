"""What test and predict write."""

from typing import NamedTuple

from typing_extensions import NotRequired, TypedDict

from svd_lightning.records.calibration import CandidateRecord, CorrectionRecord, FiguresRecord
from svd_lightning.records.metrics import SummaryRecord


class TaskFiguresRecord(FiguresRecord):
    """One task of a test."""

    task: str


class TestFiguresRecord(FiguresRecord):
    """A test: its figures, and those of each task."""

    tasks: list[TaskFiguresRecord]


class HeldOutTableRecord(TestFiguresRecord):
    """`test.json`: what is in force on the test tokens, and the candidates as calibration found them."""

    estimator: str | None
    candidates: list[CandidateRecord]
    corrections: NotRequired[list[CorrectionRecord]]
    correction: NotRequired[str]


class DistributionRecord(TypedDict):
    """A distribution that a test compares."""

    rules: list[str]
    strengths: list[float]
    estimator: str | None
    correction: NotRequired[str]
    tasks: NotRequired[dict[str, "DistributionRecord"]]


class HeldOutMetricsRecord(SummaryRecord):
    """`test_metrics.json`; `data` is the digest of the test split, `global_step` that of the calibration."""

    distributions: dict[str, DistributionRecord]
    data: NotRequired[str]
    global_step: NotRequired[int | None]


class TestResults(NamedTuple):
    """What a test found, in two files; without a mask there is no table."""

    table: HeldOutTableRecord | None
    metrics: HeldOutMetricsRecord


class KnownRecord(TypedDict, total=False):
    """What the data say about a prompt: its task, and question and answers where it has choices."""

    task: str
    question: str
    correct: list[str]
    incorrect: list[str]


class PredictionRecord(KnownRecord):
    """A line of `predictions.jsonl`; a completion is a list of several sequences; only parts have the `index`."""

    id: str
    prompt: str
    index: NotRequired[int]
    reference: str
    completion: str | list[str]
    base: NotRequired[str | list[str]]
    tuned: NotRequired[str | list[str]]
