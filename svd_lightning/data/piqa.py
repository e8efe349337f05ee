"""PIQA (Bisk et al. 2020): which of two solutions reaches a goal in the physical world."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from svd_lightning.data.commonsense import CommonsenseTask, Instruction, listed, numbered
from svd_lightning.data.recorded import index_of
from svd_lightning.data.records import Record


@dataclass(kw_only=True, eq=False, repr=False)
class PIQA(CommonsenseTask):
    """PIQA; the test split is the hub's `validation` (its own test split has no labels).

    Columns: `goal`, `sol1`, `sol2`, `label` (0 or 1). The main branch on the hub is a script, which `datasets`
    no longer runs: the default revision is the hub's own conversion.
    """

    READY: ClassVar[Mapping[str, str]] = {"test": "validation"}

    path: str | Path = field(default="ybisk/piqa", kw_only=False)
    """Training data: a file of the hub's columns, a dataset folder, or the name on the hub."""
    revision: str | None = "refs/convert/parquet"
    """Branch, tag or commit of a hub dataset."""

    def instruction(self, record: Record) -> Instruction:
        """The goal and two solutions, a paragraph each."""
        request = f"Please choose the correct solution to the question: {record.text('goal')}"
        return Instruction(
            text=listed(request, [record.text("sol1"), record.text("sol2")], "solution", between="\n\n"),
            labels=numbered("solution", 2),
            right=index_of(record, "label", {0: 0, 1: 1}),
        )
