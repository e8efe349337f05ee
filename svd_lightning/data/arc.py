"""ARC (Clark et al. 2018): science questions from school exams."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from svd_lightning.data.commonsense import CommonsenseTask, Instruction, lettered_choices
from svd_lightning.data.records import Record


@dataclass(kw_only=True, eq=False, repr=False)
class ARC(CommonsenseTask):
    """ARC, easy or challenge, with the hub's own validation and test splits.

    Columns: `id`, `question`, `choices` ({text: […], label: […]}), `answerKey` (one of the labels).
    """

    READY: ClassVar[Mapping[str, str]] = {"validation": "validation", "test": "test"}

    path: str | Path = field(default="allenai/ai2_arc", kw_only=False)
    """Training data: a file of the hub's columns, a dataset folder, or the name on the hub."""
    subset: str | None = "ARC-Easy"
    """ARC-Easy or ARC-Challenge; null for a folder without configurations."""

    def instruction(self, record: Record) -> Instruction:
        """The question and three to five answers."""
        return lettered_choices(record, "question")
