"""Types of judged answers, as `svd-lightning judge` writes them as JSON."""

from typing import Literal

from typing_extensions import NotRequired, TypedDict

from svd_lightning.records import GainRecord

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
