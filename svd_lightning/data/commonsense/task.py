"""Commonsense questions as the instructions of LLM-Adapters (Hu et al. 2023), answered with an option's name."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from svd_lightning.data.choices import RecordedChoices, index_of
from svd_lightning.data.examples import ChoiceQuestion
from svd_lightning.data.source_rows import SourceRow
from svd_lightning.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """A request with its options written out, and the names that an answer uses for them."""

    text: str
    """The request, the options, the answer format."""
    labels: tuple[str, ...]
    """The options' names, such as answer1."""
    right: int
    """Index of the right one."""


@dataclass(kw_only=True, eq=False, repr=False)
class CommonsenseTask(RecordedChoices, ABC):
    """Questions whose choices are `the correct answer is answer1`, `… answer2` and so on.

    A dataset is a subclass with `instruction`.
    """

    template: str = "{instruction}\n\n"
    """The prompt; {instruction} stands for request, options and answer format. The answer follows at once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if "{instruction}" not in self.template:
            raise InputError(f"data.template: expected the place {{instruction}} in it, got {self.template!r}")

    @abstractmethod
    def instruction(self, row: SourceRow) -> Instruction:
        """Return what the row asks."""

    def question(self, row: SourceRow, name: str) -> ChoiceQuestion:
        """Return the instruction, with one sentence for each option as the choices."""
        asked = self.instruction(row)
        return ChoiceQuestion(
            name,
            self.template.replace("{instruction}", asked.text),
            tuple(f"the correct answer is {label}" for label in asked.labels),
            correct=(asked.right,),
            best=asked.right,
        )


def choose(
    request: str, options: Sequence[str], name: str, right: int, *, between: str = " ", before_format: str = "\n\n"
) -> Instruction:
    """Return the instruction that lists the options under numbered names, and then the answer format.

    >>> print(choose("Please choose.", ["rain", "snow"], "answer", right=0).text)
    Please choose.
    <BLANKLINE>
    Answer1: rain Answer2: snow
    <BLANKLINE>
    Answer format: answer1/answer2
    """
    labels = tuple(f"{name}{number}" for number in range(1, len(options) + 1))
    listed = between.join(f"{label.capitalize()}: {option}" for label, option in zip(labels, options, strict=True))
    text = f"{request}\n\n{listed}{before_format}Answer format: {'/'.join(labels)}"
    return Instruction(text=text, labels=labels, right=right)


def choose_answer(question: str, options: Sequence[str], right: int) -> Instruction:
    """Return the instruction of SIQA, ARC and OpenBookQA."""
    return choose(f"Please choose the correct answer to the question: {question}", options, "answer", right)


def lettered_choices(row: SourceRow, question: str) -> Instruction:
    """Return the instruction of a row of `choices` {text: […], label: […]} and `answerKey`, one of the labels."""
    choices = row.value("choices")
    texts, labels = (choices.get(key) if isinstance(choices, dict) else None for key in ("text", "label"))
    if not isinstance(texts, list) or not isinstance(labels, list) or len(texts) != len(labels) or not texts:
        raise InputError(
            f"{row.where}: expected in 'choices' {{text: [...], label: [...]}} of equal length, at least one, "
            f"got {choices!r:.80}"
        )
    return choose_answer(row.text(question), texts, index_of(row, "answerKey", labels))
