"""WinoGrande (Sakaguchi et al. 2020): whom a blank stands for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from svd_lightning.data.commonsense import CommonsenseTask, Instruction, listed, numbered
from svd_lightning.data.recorded import index_of
from svd_lightning.data.records import Record


@dataclass(kw_only=True, eq=False, repr=False)
class WinoGrande(CommonsenseTask):
    """WinoGrande; the test split is the hub's `validation` (its own test split has no labels).

    Columns: `sentence` with a blank `_`, `option1`, `option2`, `answer` (1 or 2). LLM-Adapters' 63,238 training
    rows are the hub's six subsets put together, which overlap; here it is one subset.
    """

    READY: ClassVar[Mapping[str, str]] = {"test": "validation"}

    path: str | Path = field(default="allenai/winogrande", kw_only=False)
    """Training data: a file of the hub's columns, a dataset folder, or the name on the hub."""
    subset: str | None = "winogrande_xl"
    """Configuration of a folder or hub dataset; the size of the training data goes by it."""

    def instruction(self, record: Record) -> Instruction:
        """The sentence and two options; their answer format stands in the same paragraph."""
        return Instruction(
            text=listed(
                "Please choose the correct answer to fill in the blank to complete the given sentence: "
                f"{record.text('sentence')}",
                [record.text("option1"), record.text("option2")],
                "option",
                before_format=" ",
            ),
            labels=numbered("option", 2),
            right=index_of(record, "answer", {1: 0, 2: 1}),
        )
