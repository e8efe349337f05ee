"""Gains, metrics and measurements, of which the other records are made."""

from typing_extensions import NotRequired, TypedDict


class GainRecord(TypedDict):
    """A mean gain in nats per token, positive when better, with its 95 % interval."""

    mean: float
    low: float
    high: float


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


class ValidationRecord(TypedDict):
    """How the tuned model scored each validation example at one step of a training."""

    step: int
    epochs: float
    """How many epochs were trained."""
    examples: list[int]
    """Their numbers."""
    tokens: list[int]
    """Completion tokens of each example."""
    log_probs: list[float]
    """Σ log p of each example's tokens."""
