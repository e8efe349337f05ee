"""Types of everything that a run writes as JSON: plain numbers, strings, lists and dictionaries, nothing else."""

from typing import Any, Literal, NamedTuple

from typing_extensions import NotRequired, TypedDict

Intervals = list[list[float]]
"""[low, high] of each strength, 95 %, two-sided."""


class ClassPath(TypedDict):
    """An object as configurations and checkpoints write it: its class, and the arguments that are not defaults."""

    class_path: str
    init_args: dict[str, Any]


class GainRecord(TypedDict):
    """A mean gain in nats per token, positive when better, with its 95 % interval."""

    mean: float
    low: float
    high: float


class UsedRecord(TypedDict):
    """What decoding uses: strengths of 0 are the tuned model as it is."""

    rules: list[str]
    strengths: list[float]
    intervals: Intervals | None
    gain: GainRecord


class CandidateRecord(TypedDict):
    """A recipe that calibration tried."""

    rules: list[str]
    estimator: str
    strengths: list[float]
    nll: float
    nll_decoded: float
    accuracy: float
    gain: GainRecord
    """Of what is fitted: nats per token, or nats per question for the choice among options."""
    gain_likelihood: NotRequired[GainRecord]
    gain_mc1: NotRequired[GainRecord | None]
    warning: str | None
    intervals: NotRequired[Intervals | None]


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


class GainsRecord(TypedDict):
    """Held-out gains over the tuned model; older records have the first alone."""

    gain_over_tuned: GainRecord
    """Of what is fitted: nats per token, or nats per question for the choice among options."""
    gain_likelihood: NotRequired[GainRecord]
    """Of all label tokens, in nats per token."""
    gain_mc1: NotRequired[GainRecord | None]
    """Of MC1, a share; null without options."""


class QuestionsRecord(TypedDict):
    """How questions with options are answered, held out: shares by MC1."""

    count: int
    by_choice: bool
    """Whether the choice among the options was fitted, and not the likelihood of the answers."""
    chance: float
    """Mean of 1 / number of options."""
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
    """`calibration.json`, and `checkpoint["calibration"]`."""

    estimator: str
    guard: bool
    questions: NotRequired[QuestionsRecord | None]
    """Null without options."""
    advice: NotRequired[list[str]]
    """That the split is too small, or that another recipe surely helps, and how to use it."""
    tasks: list[TaskRecord]
    candidates: list[CandidateRecord]
    sweep: list[MaskRecord]
    recommended: RecommendedRecord | None
    global_step: NotRequired[int]
    epoch: NotRequired[int]
    data: NotRequired[str]
    """Digest of the calibration split."""
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
    """`test.json`: the steering in force on the test tokens, and the candidates as calibration fitted them."""

    estimator: str | None
    candidates: list[CandidateRecord]


class DistributionRecord(TypedDict):
    """A distribution that a test compares."""

    rules: list[str]
    strengths: list[float]
    estimator: str | None
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


class SummaryRecord(MetricsRecord):
    """The metrics of all examples, and of those of each task."""

    tasks: dict[str, MetricsRecord]


class HeldOutMetricsRecord(SummaryRecord):
    """`test_metrics.json`."""

    distributions: dict[str, DistributionRecord]


class TestResults(NamedTuple):
    """What a test found, in two files."""

    table: HeldOutTableRecord | None
    """None without a mask."""
    metrics: HeldOutMetricsRecord


class KnownRecord(TypedDict, total=False):
    """What the data say about a prompt: its task, and question and answers where it has choices."""

    task: str
    question: str
    correct: list[str]
    incorrect: list[str]


class PredictionRecord(KnownRecord):
    """A line of `predictions.jsonl`; a completion is a list where several sequences were asked for."""

    id: str
    prompt: str
    index: NotRequired[int]
    """The row's place, kept in the parts only."""
    reference: str
    completion: str | list[str]
    base: NotRequired[str | list[str]]
    tuned: NotRequired[str | list[str]]


JudgedMeasure = Literal["truthful", "informative", "truthful_informative"]
"""What a judge says of a written answer."""
Measure = Literal["exact_match", "rouge_l", "accuracy", "truthful", "informative", "truthful_informative"]
"""A number of a written answer, in the order of the tables."""


class MeasuresRecord(TypedDict):
    """The measures of written answers, in [0, 1]; null where one does not apply or the judge abstained."""

    exact_match: float | None
    rouge_l: float | None
    accuracy: float | None
    truthful: float | None
    informative: float | None
    truthful_informative: float | None


class SystemRecord(MeasuresRecord):
    """The written answers of base, tuned or steered, with the mean of each measure."""

    answers: int
    judged: int
    """How many answers the judge was asked about."""
    abstained: dict[JudgedMeasure, int]


class JudgedPart(TypedDict):
    """The measures of all answers or of one task's; a gain is null where it has no interval."""

    rows: int
    systems: dict[str, SystemRecord]
    gains: dict[str, dict[Measure, GainRecord | None]]
    """System − tuned, by system."""
    tasks: NotRequired[dict[str, "JudgedPart"]]


class JudgeRecord(TypedDict):
    """Who judged; the label is null where nobody did."""

    label: str | None
    about: str


class JudgedRecord(JudgedPart):
    """`predictions.judged.json`."""

    predictions: str
    judge: JudgeRecord


class AnswerRecord(MeasuresRecord):
    """A line of `predictions.judged.jsonl`."""

    id: str
    system: str
    text: str
    evidence: tuple[str, str] | None
