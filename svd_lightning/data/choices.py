"""Datasets of questions with choices."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from svd_lightning.data.datamodule import CompletionDataModule
from svd_lightning.data.examples import ChoiceQuestion, Example


@dataclass(kw_only=True, eq=False, repr=False)
class ChoiceDataModule(CompletionDataModule, ABC):
    """Questions with choices, split and trained on as prompts with their best choice.

    A dataset is a subclass with `load_questions`; `questions(split)` gives what a split holds, all choices
    included, once the data are set up.
    """

    @abstractmethod
    def load_questions(self) -> list[ChoiceQuestion]:
        """The questions to train on; splits that do not come ready are cut from them."""

    def load_given_question_splits(self) -> dict[str, list[ChoiceQuestion]]:
        """The splits that come ready, by name: calibration, validation, test, predict."""
        return {}

    def load(self) -> list[Example]:
        """Each question with its best choice."""
        return [question.as_example() for question in self.load_questions()]

    def load_given_splits(self) -> dict[str, list[Example]]:
        """The same of the splits that come ready."""
        given = self.load_given_question_splits()
        return {split: [question.as_example() for question in questions] for split, questions in given.items()}
