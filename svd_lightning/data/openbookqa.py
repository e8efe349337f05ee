"""OpenBookQA (Mihaylov et al. 2018): elementary science and what everybody knows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from svd_lightning.data.commonsense import CommonsenseTask, Instruction, lettered_choices
from svd_lightning.data.records import Record


@dataclass(kw_only=True, eq=False, repr=False)
class OpenBookQA(CommonsenseTask):
    """OpenBookQA without its book of facts, with the hub's own validation and test splits.

    Columns: `id`, `question_stem`, `choices` ({text: […], label: […]}), `answerKey` (one of the labels).
    """

    READY: ClassVar[Mapping[str, str]] = {"validation": "validation", "test": "test"}

    path: str | Path = field(default="allenai/openbookqa", kw_only=False)
    """Training data: a file of the hub's columns, a dataset folder, or the name on the hub."""
    subset: str | None = "main"
    """Configuration of a folder or hub dataset."""

    def instruction(self, record: Record) -> Instruction:
        """The stem and four answers."""
        return lettered_choices(record, "question_stem")
