"""The commonsense datasets in the columns that they have on the hub, one class for each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from svd_lightning.data.choices import index_of
from svd_lightning.data.commonsense.task import (
    CommonsenseTask,
    Instruction,
    choose,
    choose_answer,
    lettered_choices,
)
from svd_lightning.data.source_rows import SourceRow
from svd_lightning.errors import InputError


@dataclass(kw_only=True, eq=False, repr=False)
class ARC(CommonsenseTask):
    """ARC (Clark et al. 2018), easy or challenge: science questions from school exams.

    The validation and test splits are the hub's own. Columns: `id`, `question`, `choices` ({text: […],
    label: […]}), `answerKey` (one of the labels).
    """

    READY: ClassVar[Mapping[str, str]] = {"validation": "validation", "test": "test"}

    path: str | Path = field(default="allenai/ai2_arc", kw_only=False)
    """Training data: a file of the hub's columns, a dataset folder, or the name on the hub."""
    subset: str | None = "ARC-Easy"
    """ARC-Easy or ARC-Challenge; null for a folder without configurations."""

    def dataset_names(self) -> set[str]:
        """Return the subset's name: each is a task of its own."""
        return {self.subset or "ARC"}

    def instruction(self, row: SourceRow) -> Instruction:
        """Return the question and three to five answers."""
        return lettered_choices(row, "question")


@dataclass(kw_only=True, eq=False, repr=False)
class BoolQ(CommonsenseTask):
    """BoolQ (Clark et al. 2019): questions to a search engine, answered with true or false.

    The passages are left out, as in LLM-Adapters; the test split is the hub's `validation`. Columns: `question`,
    `answer` (a truth value).
    """

    READY: ClassVar[Mapping[str, str]] = {"test": "validation"}

    path: str | Path = field(default="google/boolq", kw_only=False)
    """Training data: a file of the hub's columns, a dataset folder, or the name on the hub."""

    def instruction(self, row: SourceRow) -> Instruction:
        """Return the question, with its question mark."""
        question = row.text("question").strip().removesuffix("?")
        return Instruction(
            text=f"Please answer the following question with true or false, question: {question}?\n\n"
            "Answer format: true/false",
            labels=("true", "false"),
            right=index_of(row, "answer", [True, False]),
        )


@dataclass(kw_only=True, eq=False, repr=False)
class HellaSwag(CommonsenseTask):
    """HellaSwag (Zellers et al. 2019): how a description goes on.

    The test split is the hub's `validation` (the hub's test split has no labels). Columns: `activity_label`,
    `ctx`, `endings` (a list), `label` (from 0).
    """

    READY: ClassVar[Mapping[str, str]] = {"test": "validation"}

    path: str | Path = field(default="Rowan/hellaswag", kw_only=False)
    """Training data: a file of the hub's columns, a dataset folder, or the name on the hub."""

    def instruction(self, row: SourceRow) -> Instruction:
        """Return the activity, its context, and the endings."""
        endings = row.value("endings")
        if not isinstance(endings, list) or not endings or not all(isinstance(each, str) for each in endings):
            raise InputError(f"{row.where}: expected a list of texts in 'endings', got {endings!r:.80}")
        sentence = f"{row.text('activity_label')}: {row.text('ctx')}"
        return choose(
            f"Please choose the correct ending to complete the given sentence: {sentence}",
            endings,
            "ending",
            index_of(row, "label", range(len(endings))),
        )


@dataclass(kw_only=True, eq=False, repr=False)
class OpenBookQA(CommonsenseTask):
    """OpenBookQA (Mihaylov et al. 2018): elementary science and common knowledge, without its book of facts.

    The validation and test splits are the hub's own. Columns: `id`, `question_stem`, `choices` ({text: […],
    label: […]}), `answerKey` (one of the labels).
    """

    READY: ClassVar[Mapping[str, str]] = {"validation": "validation", "test": "test"}

    path: str | Path = field(default="allenai/openbookqa", kw_only=False)
    """Training data: a file of the hub's columns, a dataset folder, or the name on the hub."""
    subset: str | None = "main"
    """Configuration of a folder or hub dataset."""

    def instruction(self, row: SourceRow) -> Instruction:
        """Return the stem and four answers."""
        return lettered_choices(row, "question_stem")


@dataclass(kw_only=True, eq=False, repr=False)
class PIQA(CommonsenseTask):
    """PIQA (Bisk et al. 2020): which of two solutions reaches a goal in the physical world.

    The test split is the hub's `validation` (the hub's test split has no labels). Columns: `goal`, `sol1`, `sol2`,
    `label` (0 or 1). The main branch on the hub is a script, which `datasets` no longer runs: the default revision
    is the hub's own conversion.
    """

    READY: ClassVar[Mapping[str, str]] = {"test": "validation"}

    path: str | Path = field(default="ybisk/piqa", kw_only=False)
    """Training data: a file of the hub's columns, a dataset folder, or the name on the hub."""
    revision: str | None = "refs/convert/parquet"
    """Branch, tag or commit of a hub dataset."""

    def instruction(self, row: SourceRow) -> Instruction:
        """Return the goal and two solutions, each in a paragraph."""
        request = f"Please choose the correct solution to the question: {row.text('goal')}"
        solutions = [row.text("sol1"), row.text("sol2")]
        return choose(request, solutions, "solution", index_of(row, "label", [0, 1]), between="\n\n")


@dataclass(kw_only=True, eq=False, repr=False)
class SIQA(CommonsenseTask):
    """Social IQa (Sap et al. 2019): what people feel, want and do.

    The test split is the hub's `validation`. Columns: `context`, `question`, `answerA`, `answerB`, `answerC`,
    `label` (1 to 3). The main branch on the hub is a script, which `datasets` no longer runs: the default revision
    is the hub's own conversion.
    """

    READY: ClassVar[Mapping[str, str]] = {"test": "validation"}

    path: str | Path = field(default="allenai/social_i_qa", kw_only=False)
    """Training data: a file of the hub's columns, a dataset folder, or the name on the hub."""
    revision: str | None = "refs/convert/parquet"
    """Branch, tag or commit of a hub dataset."""

    def instruction(self, row: SourceRow) -> Instruction:
        """Return the situation, the question about it, and three answers."""
        return choose_answer(
            f"{row.text('context')} {row.text('question')}",
            [row.text(f"answer{letter}") for letter in "ABC"],
            index_of(row, "label", [1, 2, 3]),
        )


@dataclass(kw_only=True, eq=False, repr=False)
class WinoGrande(CommonsenseTask):
    """WinoGrande (Sakaguchi et al. 2020): what a blank in a sentence stands for.

    The test split is the hub's `validation` (the hub's test split has no labels). Columns: `sentence` with a blank
    `_`, `option1`, `option2`, `answer` (1 or 2). LLM-Adapters' 63,238 training rows are the hub's six subsets put
    together, which overlap; here it is one subset.
    """

    READY: ClassVar[Mapping[str, str]] = {"test": "validation"}

    path: str | Path = field(default="allenai/winogrande", kw_only=False)
    """Training data: a file of the hub's columns, a dataset folder, or the name on the hub."""
    subset: str | None = "winogrande_xl"
    """Configuration of a folder or hub dataset; it decides how much training data there is."""

    def instruction(self, row: SourceRow) -> Instruction:
        """Return the sentence and two options, with the answer format in the same paragraph."""
        request = "Please choose the correct answer to fill in the blank to complete the given sentence"
        options = [row.text("option1"), row.text("option2")]
        right = index_of(row, "answer", [1, 2])
        return choose(f"{request}: {row.text('sentence')}", options, "option", right, before_format=" ")
