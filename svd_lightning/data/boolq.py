"""BoolQ (Clark et al. 2019): questions that a search engine was asked, answered with true or false."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from svd_lightning.data.commonsense import CommonsenseTask, Instruction
from svd_lightning.data.recorded import index_of
from svd_lightning.data.records import Record


@dataclass(kw_only=True, eq=False, repr=False)
class BoolQ(CommonsenseTask):
    """BoolQ without its passages, as LLM-Adapters asks it; the test split is the hub's `validation`.

    Columns: `question`, `answer` (a truth value).
    """

    READY: ClassVar[Mapping[str, str]] = {"test": "validation"}

    path: str | Path = field(default="google/boolq", kw_only=False)
    """Training data: a file of the hub's columns, a dataset folder, or the name on the hub."""

    def instruction(self, record: Record) -> Instruction:
        """The question, with its question mark."""
        question = record.text("question").strip().removesuffix("?")
        return Instruction(
            text=f"Please answer the following question with true or false, question: {question}?\n\n"
            "Answer format: true/false",
            labels=("true", "false"),
            right=index_of(record, "answer", {True: 0, False: 1}),
        )
