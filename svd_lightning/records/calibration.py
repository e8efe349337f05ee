"""What a calibration writes."""

from typing_extensions import NotRequired, TypedDict

from svd_lightning.records.metrics import DecodingRecord, GainRecord, NoiseRecord

Intervals = list[list[float]]
"""[low, high] of each strength, 95 %, two-sided."""


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

    The drift is how far it moves the tuned distribution at tokens of the prompts, KL in nats; the cost is the time
    of a decoded token over that of the tuned model, measured where it was calibrated.
    """

    nll: float
    accuracy: float
    gain: GainRecord
    reads_base: NotRequired[bool]
    drift: NotRequired[float]
    cost: NotRequired[float]


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
    """`calibration.json`, and `checkpoint["calibration"]`; `arithmetic` names the number formats of decoding.

    `adapter` is the sum of the trained weights, by which they are known again.
    """

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
    decoding: NotRequired[DecodingRecord]
    noise: NotRequired[NoiseRecord]
    global_step: NotRequired[int]
    epoch: NotRequired[int]
    data: NotRequired[str]
    arithmetic: NotRequired[dict[str, str]]
    adapter: NotRequired[str]
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
