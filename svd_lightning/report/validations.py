"""What the last two validations of a training found for each example, as a run folder has it."""

from pathlib import Path
from typing import TypedDict, cast

from svd_lightning.files import parse_json

VALIDATIONS = "validations.json"


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


def load_validations(folder: Path) -> list[ValidationRecord]:
    """Return what the last two validations of a run's training found, the older one first; there may be fewer."""
    path = folder / VALIDATIONS
    found = parse_json(path.read_text(encoding="utf-8"))["validations"] if path.exists() else []
    return cast(list[ValidationRecord], found)
