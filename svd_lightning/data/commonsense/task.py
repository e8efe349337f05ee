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
    """A request with its options written out, and the names by which an answer calls them."""

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
    """The prompt; {instruction} stands for request, options and answer format, and the answer follows at once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if "{instruction}" not in self.template:
            raise InputError(f"data.template: expected the place {{instruction}} in it, got {self.template!r}")

    @abstractmethod
    def instruction(self, row: SourceRow) -> Instruction:
        """What the row asks."""

    def question(self, row: SourceRow, name: str) -> ChoiceQuestion:
        """The instruction, with one sentence for each option as the choices."""
        asked = self.instruction(row)
        return ChoiceQuestion(
            name,
            self.template.replace("{instruction}", asked.text),
            tuple(f"the correct answer is {label}" for label in asked.labels),
            correct=(asked.right,),
            best=asked.right,
        )


def numbered(name: str, count: int) -> tuple[str, ...]:
    """The names of the options.

    >>> numbered("ending", 3)
    ('ending1', 'ending2', 'ending3')
    """
    return tuple(f"{name}{number}" for number in range(1, count + 1))


def listed(
    request: str, options: Sequence[str], name: str, *, between: str = " ", before_format: str = "\n\n"
) -> str:
    """A request with its options and the answer format.

    >>> print(listed("Please choose.", ["rain", "snow"], "answer"))
    Please choose.
    <BLANKLINE>
    Answer1: rain Answer2: snow
    <BLANKLINE>
    Answer format: answer1/answer2
    """
    labels = numbered(name, len(options))
    options = [f"{label.capitalize()}: {option}" for label, option in zip(labels, options, strict=True)]
    return f"{request}\n\n{between.join(options)}{before_format}Answer format: {'/'.join(labels)}"


def choose_answer(question: str, options: Sequence[str], right: int) -> Instruction:
    """The instruction of SIQA, ARC and OpenBookQA."""
    return Instruction(
        text=listed(f"Please choose the correct answer to the question: {question}", options, "answer"),
        labels=numbered("answer", len(options)),
        right=right,
    )


def lettered_choices(row: SourceRow, question: str) -> Instruction:
    """The instruction of a row whose `choices` are {text: […], label: […]}, `answerKey` one of the labels."""
    choices = row.value("choices")
    texts, labels = (choices.get(key) if isinstance(choices, dict) else None for key in ("text", "label"))
    if not isinstance(texts, list) or not isinstance(labels, list) or len(texts) != len(labels) or not texts:
        raise InputError(
            f"{row.where}: expected in 'choices' {{text: [...], label: [...]}} of equal length, at least one, "
            f"got {choices!r:.80}"
        )
    right = index_of(row, "answerKey", {label: index for index, label in enumerate(labels)})
    return choose_answer(row.text(question), texts, right)
