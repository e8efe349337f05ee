"""TruthfulQA (Lin et al. 2022): questions that people answer falsely."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from svd_lightning.data.choices import ChoiceDataModule
from svd_lightning.data.examples import ChoiceQuestion, Example
from svd_lightning.data.primers import primed
from svd_lightning.data.records import Record, read_records
from svd_lightning.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TruthfulQuestion:
    """A question with all its reference answers."""

    id: str
    """The row's number in the dataset, from 0."""
    category: str
    """The dataset's category, such as Misconceptions; empty in the subset `multiple_choice`."""
    question: str
    """The question itself."""
    best: str
    """The best true answer."""
    correct: tuple[str, ...]
    """All true answers, the best one first."""
    incorrect: tuple[str, ...]
    """False answers."""


@dataclass(kw_only=True, eq=False, repr=False)
class TruthfulQA(ChoiceDataModule):
    """TruthfulQA, open-ended and multiple choice; the completion is the best answer, the choices are all answers.

    The test split is a fifth (164 of 817 questions), the calibration split a fifth of what training is left.
    A file may be TruthfulQA.csv, or hold the columns of either of the hub's subsets.
    """

    path: str | Path = field(default="truthfulqa/truthful_qa", kw_only=False)
    """A file, a dataset folder, or the dataset's name on the hub."""
    subset: Literal["generation", "multiple_choice"] = "generation"
    """Which of the hub's two layouts; a file shows by its columns which it has."""
    all_correct_answers: bool = False
    """One example for each true answer, not for the best one alone; a question stays within one split."""
    template: str = "Q: {question}\nA:"
    """The prompt; {question} stands for the question, and the answer follows after a space."""
    primed: bool = False
    """Put before it an instruction (answer literally, or "I have no comment") and six answered questions."""
    calibration: int | float | None = 0.2
    """Calibration split, never trained on: a count of questions, or a fraction of what is left for training."""
    test: int | float | None = 0.2
    """Test split: a count of questions, or a fraction of all; null for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if "{question}" not in self.template:
            raise InputError(f"data.template: expected the place {{question}} in it, got {self.template!r}")

    def references(self) -> list[TruthfulQuestion]:
        """Every question with its true and false answers, in the order of the dataset."""
        records = read_records(self.path, subset=self.subset, split="validation")
        return [_question(record, str(number)) for number, record in enumerate(records)]

    def load(self) -> list[Example]:
        """One example per question, or per true answer."""
        return [example for question in self.load_questions() for example in self._examples(question)]

    def load_questions(self) -> list[ChoiceQuestion]:
        """Every question; its choices are the true answers, the best one first, then the false ones."""
        return [self._with_choices(question) for question in self.references()]

    def _with_choices(self, question: TruthfulQuestion) -> ChoiceQuestion:
        prompt = self.template.replace("{question}", question.question)
        return ChoiceQuestion(
            question.id,
            primed(prompt) if self.primed else prompt,
            tuple(f" {answer}" for answer in (*question.correct, *question.incorrect)),
            correct=tuple(range(len(question.correct))),
            best=0,
            asked=question.question,
        )

    def _examples(self, question: ChoiceQuestion) -> list[Example]:
        if not self.all_correct_answers:
            return [question.as_example()]
        examples = question.as_examples()
        return [
            replace(examples[index], id=f"{question.id}-{index}", group=question.id) for index in question.correct
        ]


def _question(record: Record, name: str) -> TruthfulQuestion:
    # "Best Answer" in the file is "best_answer" on the hub.
    record = Record(
        record.where,
        record.number,
        {column.strip().lower().replace(" ", "_"): value for column, value in record.values.items()},
    )
    if "mc2_targets" in record.values:
        return _from_targets(record, name)
    best = record.text("best_answer").strip()
    if not best:
        raise InputError(f"{record.where}: expected a best answer, got an empty one")
    return TruthfulQuestion(
        id=name,
        category=record.text("category"),
        question=record.text("question").strip(),
        best=best,
        correct=tuple(dict.fromkeys((best, *_answers(record, "correct_answers")))),
        incorrect=tuple(dict.fromkeys(_answers(record, "incorrect_answers"))),
    )


def _from_targets(record: Record, name: str) -> TruthfulQuestion:
    """The layout of `multiple_choice`: the best answer is the right one of mc1, all answers are those of mc2."""
    best = _labelled(record, "mc1_targets", 1)
    if len(best) != 1:
        raise InputError(f"{record.where}: expected one right answer in 'mc1_targets', got {len(best)}")
    return TruthfulQuestion(
        id=name,
        category="",
        question=record.text("question").strip(),
        best=best[0],
        correct=tuple(dict.fromkeys((*best, *_labelled(record, "mc2_targets", 1)))),
        incorrect=tuple(dict.fromkeys(_labelled(record, "mc2_targets", 0))),
    )


def _labelled(record: Record, column: str, label: int) -> list[str]:
    """The answers under a label, 1 for true ones."""
    targets = record.value(column)
    choices, labels = (targets.get(key) if isinstance(targets, dict) else None for key in ("choices", "labels"))
    if (
        not isinstance(choices, list)
        or not isinstance(labels, list)
        or len(choices) != len(labels)
        or not all(isinstance(choice, str) and choice.strip() for choice in choices)
        or any(each not in (0, 1) for each in labels)
    ):
        raise InputError(
            f"{record.where}: expected in {column!r} {{choices: [texts], labels: [0 or 1 for each]}}, "
            f"got {targets!r:.80}"
        )
    return [choice.strip() for choice, each in zip(choices, labels, strict=True) if each == label]


def _answers(record: Record, column: str) -> list[str]:
    """A list on the hub, `;` between the answers in the file."""
    value = record.value(column)
    answers = value.split(";") if isinstance(value, str) else value
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise InputError(
            f"{record.where}: expected answers with `;` between them in {column!r}, got {value!r:.80}"
        )
    return [answer.strip() for answer in answers if answer.strip()]
