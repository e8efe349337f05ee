"""Social IQa (Sap et al. 2019): what people feel, want and do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from svd_lightning.data.commonsense import CommonsenseTask, Instruction, choose_answer
from svd_lightning.data.recorded import index_of
from svd_lightning.data.records import Record


@dataclass(kw_only=True, eq=False, repr=False)
class SIQA(CommonsenseTask):
    """Social IQa; the test split is the hub's `validation`.

    Columns: `context`, `question`, `answerA`, `answerB`, `answerC`, `label` (1 to 3). The main branch on the hub
    is a script, which `datasets` no longer runs: the default revision is the hub's own conversion.
    """

    READY: ClassVar[Mapping[str, str]] = {"test": "validation"}

    path: str | Path = field(default="allenai/social_i_qa", kw_only=False)
    """Training data: a file of the hub's columns, a dataset folder, or the name on the hub."""
    revision: str | None = "refs/convert/parquet"
    """Branch, tag or commit of a hub dataset."""

    def instruction(self, record: Record) -> Instruction:
        """The situation, the question about it, and three answers."""
        return choose_answer(
            f"{record.text('context')} {record.text('question')}",
            [record.text(f"answer{letter}") for letter in "ABC"],
            index_of(record, "label", {1: 0, 2: 1, 3: 2}),
        )
