"""The units of what is recorded."""

from collections.abc import Mapping
from typing import Any

PER_TOKEN, PER_QUESTION = "nats per token", "nats per question"
CHOICE_NLL = "choice_NLL"
"""−log MC2, the mean over questions: what a calibration fits where it fits the choice."""
IN_NATS = {"NLL": PER_TOKEN, "KL": PER_TOKEN, CHOICE_NLL: PER_QUESTION}
"""The metrics in nats, and their units; all others are shares, or have no unit."""


def fits_choice(record: Mapping[str, Any]) -> bool:
    """Return whether a calibration fitted the choice among the options, and not the likelihood of the tokens."""
    about = record.get("questions")
    return bool(about and about["by_choice"])


def gain_unit(record: Mapping[str, Any]) -> str:
    """Return the unit of a calibration's gains.

    >>> gain_unit({"questions": {"by_choice": True}}), gain_unit({"questions": None})
    ('nats per question', 'nats per token')
    """
    return PER_QUESTION if fits_choice(record) else PER_TOKEN
