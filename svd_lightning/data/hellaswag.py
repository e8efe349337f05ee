"""HellaSwag (Zellers et al. 2019): how a description goes on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from svd_lightning.data.commonsense import CommonsenseTask, Instruction, listed, numbered
from svd_lightning.data.recorded import index_of
from svd_lightning.data.records import Record
from svd_lightning.errors import InputError


@dataclass(kw_only=True, eq=False, repr=False)
class HellaSwag(CommonsenseTask):
    """HellaSwag; the test split is the hub's `validation` (its own test split has no labels).

    Columns: `activity_label`, `ctx`, `endings` (a list), `label` (from 0).
    """

    READY: ClassVar[Mapping[str, str]] = {"test": "validation"}

    path: str | Path = field(default="Rowan/hellaswag", kw_only=False)
    """Training data: a file of the hub's columns, a dataset folder, or the name on the hub."""

    def instruction(self, record: Record) -> Instruction:
        """The activity, its context, and the endings."""
        endings = record.value("endings")
        if not isinstance(endings, list) or not endings or not all(isinstance(each, str) for each in endings):
            raise InputError(f"{record.where}: expected a list of texts in 'endings', got {endings!r:.80}")
        return Instruction(
            text=listed(
                "Please choose the correct ending to complete the given sentence: "
                f"{record.text('activity_label')}: {record.text('ctx')}",
                endings,
                "ending",
            ),
            labels=numbered("ending", len(endings)),
            right=index_of(record, "label", {index: index for index in range(len(endings))}),
        )
