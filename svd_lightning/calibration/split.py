"""A calibration split: what strengths are fitted to, and all that they are judged by."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from svd_lightning.errors import InputError
from svd_lightning.metrics import mc1
from svd_lightning.objective import (
    CalibrationTokens,
    ChoiceObjective,
    QuestionTokens,
    TokenObjective,
    TokenTable,
    judged_penalty,
    objective,
    prefetch,
)
from svd_lightning.records import PER_QUESTION, PER_TOKEN
from svd_lightning.steering import Steering, SteeringRule


class Part(NamedTuple):
    """Strengths, and the examples that are scored with them."""

    examples: Tensor
    """Their numbers, int64."""
    strengths: Tensor
    """μ, float64 [k]."""


class Scores(NamedTuple):
    """What a distribution gives the split, float64."""

    fitted: Tensor
    """Log-probability of what is fitted: of each label, or of each question's right options among all, [U]."""
    labels: Tensor
    """Log-probability of each label, [N]."""
    mc1: Tensor | None
    """Whether the best option of each question scores above every wrong one, 0 or 1, [Q]; None without options."""


@dataclass(frozen=True)
class CalibrationSplit:
    """The labelled tokens, and the questions' options where there are some."""

    tokens: CalibrationTokens
    """Of completions; of questions with options, those of the best answers."""
    questions: QuestionTokens | None = None
    by_choice: bool = False
    """Whether the choice among the options is fitted, and not the likelihood of the tokens."""
    penalty: float = 0.0
    """λ under which labels are scored, finite."""

    @property
    def example(self) -> Tensor:
        """The example of each thing that is fitted, int64 [U]: of each label, or the number of each question."""
        if self.by_choice and self.questions is not None:
            return self.questions.choices.number
        return self.tokens.example

    @property
    def unit(self) -> str:
        """The unit of its gains."""
        return PER_QUESTION if self.by_choice else PER_TOKEN

    def under(self, steering: Steering) -> "CalibrationSplit":
        """Return the split under a steering's mask and penalty.

        Raises:
            InputError: for a stream and a steering with a mask, or a table and one without.
        """
        if isinstance(self.tokens, TokenTable) is not (steering.alpha is not None):
            raise InputError(
                "data: expected a TokenTable where the steering has a mask and a TokenStream where it has none, "
                f"got a {type(self.tokens).__name__} with steering.alpha {steering.alpha}"
            )
        narrowed = self if steering.alpha is None else self.narrow(steering.alpha)
        return replace(narrowed, penalty=judged_penalty(steering.penalty))

    def narrow(self, alpha: float) -> "CalibrationSplit":
        """Return the split at a larger α; it has tables."""
        assert isinstance(self.tokens, TokenTable)
        questions = self.questions
        if questions is not None and isinstance(questions.tokens, TokenTable):
            questions = QuestionTokens(questions.tokens.narrow(alpha), questions.choices)
        return replace(self, tokens=self.tokens.narrow(alpha), questions=questions)

    def objective(self, rules: Sequence[SteeringRule]) -> TokenObjective:
        """Return K along these directions: of the choice, or of the labels."""
        return self.choice(rules) if self.by_choice else self.likelihood(rules)

    def likelihood(self, rules: Sequence[SteeringRule]) -> TokenObjective:
        """Return the mean NLL of the labels along these directions."""
        return objective(self.tokens, rules, penalty=self.penalty)

    def choice(self, rules: Sequence[SteeringRule]) -> ChoiceObjective:
        """Return the cross-entropy of the right options along these directions."""
        assert self.questions is not None
        tokens = objective(self.questions.tokens, rules, penalty=self.penalty)
        return ChoiceObjective(self.questions.choices, rules, tokens, self.likelihood(rules))

    def tuned(self, rules: Sequence[SteeringRule]) -> Scores:
        """Return the scores of the tuned model as it is, without a penalty.

        They are taken along the rules at strengths of 0, which a stream remembers for the figures that follow.
        """
        zeros = torch.zeros(len(rules), dtype=torch.float64)
        plain = replace(self, penalty=0.0)
        return plain.scores([rules], [[Part(self.tokens.example.unique(), zeros)]])[0]

    def scores(self, recipes: Sequence[Sequence[SteeringRule]], parts: Sequence[Sequence[Part]]) -> list[Scores]:
        """Return the scores under several recipes, each with its parts; together they cover all examples.

        A stream answers them all in one pass of the labels, and one of the options.
        """
        labels = self._across([self.likelihood(rules) for rules in recipes], parts, self.tokens.example, _labels)
        if self.questions is None:
            return [Scores(each, each, None) for each in labels]
        choices, asked = self.questions.choices, [self.choice(rules) for rules in recipes]
        options = self._across(asked, parts, choices.number[choices.options.question], _options)
        return [
            Scores(
                choices.log_probs(of_options) if self.by_choice else each, each, mc1(choices.options, of_options)
            )
            for each, of_options in zip(labels, options, strict=True)
        ]

    def _across(
        self,
        objectives: Sequence[TokenObjective],
        parts: Sequence[Sequence[Part]],
        example: Tensor,
        at: Callable[[TokenObjective, Tensor], Tensor],
    ) -> list[Tensor]:
        """Return for each objective what it gives every row at the strengths of its example, [rows]."""
        pairs = [(one, part.strengths) for one, mine in zip(objectives, parts, strict=True) for part in mine]
        prefetch([one for one, _ in pairs], [strengths for _, strengths in pairs])
        found = []
        for one, mine in zip(objectives, parts, strict=True):
            rows = torch.zeros(len(example), dtype=torch.float64)
            for part in mine:
                here = torch.isin(example, part.examples)
                rows[here] = at(one, part.strengths)[here]
            found.append(rows)
        return found


def example_folds(example: Tensor, folds: int) -> tuple[Tensor, Tensor]:
    """Return the numbers of the examples, [E], and the fold of each, [E]; the same at every call."""
    numbers = example.unique()
    if len(numbers) < folds:
        raise InputError(
            f"guard: expected at least {folds} calibration examples, one per fold, got {len(numbers)}; "
            "give a larger calibration split, or fewer folds"
        )
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(0))
    return numbers, order % folds


def _labels(one: TokenObjective, strengths: Tensor) -> Tensor:
    return one.label_log_probs(strengths)


def _options(one: TokenObjective, strengths: Tensor) -> Tensor:
    assert isinstance(one, ChoiceObjective)
    return one.option_scores(strengths)
