"""Types of everything that a run writes as JSON: plain numbers, strings, lists and dictionaries, nothing else."""

from typing import NamedTuple

from typing_extensions import NotRequired, TypedDict

Intervals = list[list[float]]
"""[low, high] of each strength, 95 %, two-sided."""


class GainRecord(TypedDict):
    """A mean gain in nats per token, positive when better, with its 95 % interval."""

    mean: float
    low: float
    high: float


class UsedRecord(TypedDict):
    """What decoding uses, with another recipe's name if it is that; strengths of 0 are the tuned model."""

    rules: list[str]
    strengths: list[float]
    intervals: Intervals | None
    gain: GainRecord
    fold_strengths: NotRequired[list[list[float]]]
    correction: NotRequired[str]
    recipe: NotRequired[str]


class OtherGainsRecord(TypedDict):
    """Held-out gains over the tuned model: in nats per label token, and of MC1 (a share; null without options)."""

    gain_likelihood: NotRequired[GainRecord]
    gain_mc1: NotRequired[GainRecord | None]


class ScoredRecord(OtherGainsRecord):
    """What a candidate achieves on the calibration split and gains there, held out.

    The drift is how far it moves the tuned distribution at tokens of the prompts, KL in nats.
    """

    nll: float
    accuracy: float
    gain: GainRecord
    reads_base: NotRequired[bool]
    drift: NotRequired[float]


class CandidateRecord(ScoredRecord):
    """A recipe that calibration tried."""

    rules: list[str]
    estimator: str
    strengths: list[float]
    nll_decoded: float
    warning: str | None
    intervals: NotRequired[Intervals | None]


class CorrectionRecord(ScoredRecord):
    """A correction that calibration tried, how many tokens it changes, and what was chosen for it (λ: `ridge`)."""

    name: str
    tokens: int
    settings: dict[str, float]


class MaskRecord(TypedDict):
    """One mask α of the comparison, with the penalty fitted for it."""

    alpha: float
    coverage: float
    mask_size: float
    penalty: float
    strengths: list[float]
    gain: GainRecord


class RecommendedRecord(TypedDict):
    """The mask and the penalty with the largest held-out gain."""

    alpha: float
    penalty: float
    reason: str
    gain: GainRecord


class FiguresRecord(TypedDict):
    """What a calibrated steering does on labelled tokens; NLL and KL in nats per token."""

    rules: list[str]
    features: list[str]
    alpha: float | None
    penalty: float
    strengths: list[float]
    tokens: int
    examples: int
    coverage: float
    mask_size: float
    kl_to_reference: float
    nll_base: float
    nll_tuned: float
    nll_steered: float
    nll_decoded_tuned: float
    nll_decoded_steered: float
    accuracy_tuned: float
    accuracy_steered: float


class GainsRecord(OtherGainsRecord):
    """Held-out gains over the tuned model; the first as `ScoredRecord.gain`."""

    gain_over_tuned: GainRecord


class QuestionsRecord(TypedDict):
    """How questions with options are answered, held out: shares by MC1; `by_choice`: their choice is fitted."""

    count: int
    by_choice: bool
    chance: float
    mc1_tuned: float
    mc1_steered: float
    """Of the strengths found, whatever the verdict."""
    mc1_control: float


class VerdictRecord(GainsRecord):
    """The gains of the strengths found, the verdict on them, and what decoding uses."""

    intervals: Intervals | None
    warning: str | None
    gain_over_control: GainRecord
    verdict: str
    message: str
    used: UsedRecord


class TaskRecord(VerdictRecord):
    """One task of a calibration: its strengths, and the verdict on them."""

    task: str
    tokens: int
    examples: int
    prior_examples: float
    weight: float
    strengths: list[float]
    nll_tuned: float
    nll_steered: float
    judged_by: str


class CalibrationRecord(FiguresRecord, VerdictRecord):
    """`calibration.json`, and `checkpoint["calibration"]`; `arithmetic` names the number formats of decoding."""

    estimator: str
    guard: bool
    questions: NotRequired[QuestionsRecord | None]
    advice: NotRequired[list[str]]
    """That the split is too small, or that another recipe surely helps, and how to use it."""
    tasks: list[TaskRecord]
    candidates: list[CandidateRecord]
    corrections: NotRequired[list[CorrectionRecord]]
    sweep: list[MaskRecord]
    recommended: RecommendedRecord | None
    decoding: NotRequired["DecodingRecord"]
    noise: NotRequired["NoiseRecord"]
    global_step: NotRequired[int]
    epoch: NotRequired[int]
    data: NotRequired[str]
    arithmetic: NotRequired[dict[str, str]]
    versions: NotRequired[dict[str, str]]


class HistoryRecord(TypedDict):
    """A line of `calibration_history.jsonl`."""

    epoch: int
    global_step: int
    kl_to_reference: float
    nll_base: float
    nll_tuned: float
    nll_steered: float
    rules: list[str]
    strengths: list[float]


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


class MetricRecord(TypedDict):
    """A metric under one distribution, with its paired gain over the tuned model where it has one."""

    value: float
    gain: NotRequired[float]
    low: NotRequired[float | None]
    high: NotRequired[float | None]


class MetricsRecord(TypedDict):
    """The metrics of some examples: by metric, then by distribution."""

    examples: int
    questions: int
    metrics: dict[str, dict[str, MetricRecord]]


class DecodingRecord(TypedDict):
    """Calibration examples decoded freely, tuned and steered: metrics, those surely worse, texts that differ."""

    examples: int
    metrics: dict[str, dict[str, MetricRecord]]
    worse: list[str]
    texts: list[dict[str, str]]


class NoiseRecord(TypedDict):
    """Rounding noise of log p − log q beside its signal, in nats, on some label tokens.

    Strengths come out at about `share` = signal² / (signal² + noise²) of the exact ones.
    """

    signal: float
    noise: float
    share: float
    tokens: int


class SummaryRecord(MetricsRecord):
    """The metrics of all examples, and of those of each task."""

    tasks: dict[str, MetricsRecord]


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
