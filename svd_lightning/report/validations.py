"""What the last two validations of a training found for each example, as a run folder has it."""

from pathlib import Path
from typing import cast

from svd_lightning.files import parse_json
from svd_lightning.records import ValidationRecord

VALIDATIONS = "validations.json"


def load_validations(folder: Path) -> list[ValidationRecord]:
    """Return what the last two validations of a run's training found, the older one first; there may be fewer."""
    path = folder / VALIDATIONS
    found = parse_json(path.read_text(encoding="utf-8"))["validations"] if path.exists() else []
    return cast(list[ValidationRecord], found)
