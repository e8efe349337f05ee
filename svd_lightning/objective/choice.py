"""K(μ) of questions with options: the cross-entropy of the right ones among all of them."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from svd_lightning.functional import StrengthTerms
from svd_lightning.metrics import Options, log_mc2
from svd_lightning.objective.interface import Along, Evaluation, ExampleSums, TokenObjective
from svd_lightning.steering import SteeringRule


@dataclass(frozen=True, eq=False)
class Choices:
    """R options of Q questions; all tensors on the CPU, the same on every process."""

    number: Tensor
    """Number of each question, int64 [Q], ascending."""
    row: Tensor
    """Number under which each option's own tokens go as an example, int64 [R], ascending."""
    options: Options

    @property
    def chance(self) -> float:
        """Mean of 1 / number of options: how often a guess is right, where one option is."""
        return (1.0 / torch.bincount(self.options.question).double()).mean().item()

    def of_options(self, numbers: Tensor) -> Tensor:
        """Return the options of some questions (int64 numbers), bool [R]."""
        return torch.isin(self.number, numbers)[self.options.question]

    def select(self, numbers: Tensor) -> "Choices":
        """Return some of the questions, int64 numbers."""
        keep = self.of_options(numbers)
        _, question = self.options.question[keep].unique(return_inverse=True)
        options = Options(question, self.options.correct[keep], self.options.best[keep])
        return Choices(self.number[torch.isin(self.number, numbers)], self.row[keep], options)

    def log_probs(self, scores: Tensor) -> Tensor:
        """Return the logarithm of MC2 of scores float64 [R], [Q]."""
        return log_mc2(self.options, scores)

    def shares(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return the softmax of scores float64 [R] over each question's options and over its right ones, [R] each.

        Their difference, right − all, is the gradient of `log_probs`.
        """
        question, right = self.options.question, self.options.correct
        among_right = (scores - self.options.log_total(scores, right)[question]).exp() * right
        return (scores - self.options.log_total(scores)[question]).exp(), among_right


class ChoiceObjective(Along):
    """K(μ) = mean over questions of −log Σ_right exp(s_o) / Σ exp(s_o), in nats per question.

    s_o(μ) = Σ log p_μ over the tokens of option o from the first in which the question's options differ, without
    EOS: up to a constant of the question the score by which MC1 ranks, so K is −log MC2. With a the softmax of s
    over all options, r over the right ones, and H_o the Hessian of −s_o (a sum of Cov_{p_μ}[d], no less than 0),

        ∇K = Σ (a_o − r_o) ∇s_o,    ∇²K = Σ (r_o − a_o) H_o + Cov_a[∇s] − Cov_r[∇s].

    Wrong options make it other than convex: a search goes downhill from the tuned model to the minimum it meets.
    Closed forms are about the tokens of the right answers, as in the paper: `terms` are those of the likelihood.

    Args:
        choices: the questions.
        rules: the directions d_k.
        tokens: the likelihood of the options' own tokens; its examples are the choices' rows.
        answers: the likelihood of all tokens of the right answers; its examples are the questions.
    """

    def __init__(
        self, choices: Choices, rules: Sequence[SteeringRule], tokens: TokenObjective, answers: TokenObjective
    ) -> None:
        super().__init__(rules)
        self.choices, self.inner, self._answers = choices, tokens, answers
        self._keep = torch.ones(len(choices.number), dtype=torch.bool)

    @property
    def examples(self) -> Tensor:
        """Numbers of the questions that count, int64 [E], ascending."""
        return self.choices.number[self._keep]

    def counting(self, examples: Tensor, *, start: Tensor) -> "ChoiceObjective":
        """Return K over these questions (int64 numbers); the others stay loaded (for folds)."""
        fold = copy.copy(self)
        fold._keep = torch.isin(self.choices.number, examples)
        fold._answers = self._answers.counting(examples, start=start)
        fold.start = start
        return fold

    def restricted(self, examples: Tensor) -> "ChoiceObjective":
        """Return K on these questions (int64 numbers) alone; costs only their tokens."""
        choices = self.choices.select(examples)
        tokens = self.inner.restricted(choices.row)
        return ChoiceObjective(choices, self._rules, tokens, self._answers.restricted(examples))

    def option_scores(self, strengths: Tensor) -> Tensor:
        """Return s_o of each option, float64 [R]."""
        return self._options(strengths)[0]

    def label_log_probs(self, strengths: Tensor) -> Tensor:
        """Return the log-probability of each question's right options among all of them, float64 [Q]."""
        return self.choices.log_probs(self.option_scores(strengths))

    def evaluate(self, strengths: Tensor) -> Evaluation:
        """Return K(μ), its gradient and its Hessian, means over the questions that count."""
        sums = self.example_sums(strengths)
        return Evaluation(-sums.log_prob.mean().item(), sums.gradient.mean(dim=0), sums.hessian.mean(dim=0))

    def example_sums(self, strengths: Tensor) -> ExampleSums:
        """Return what each question that counts adds to K, its gradient and its Hessian; it counts once."""
        scores, slopes, curvature = self._options(strengths)
        share, wanted = self.choices.shares(scores)
        outer = slopes.unsqueeze(-1) * slopes.unsqueeze(-2)
        mean, wanted_mean = self._total(share, slopes), self._total(wanted, slopes)
        hessian = self._total(share - wanted, outer - curvature)
        hessian -= mean.unsqueeze(-1) * mean.unsqueeze(-2) - wanted_mean.unsqueeze(-1) * wanted_mean.unsqueeze(-2)
        fields = self.choices.log_probs(scores), mean - wanted_mean, hessian
        return ExampleSums(torch.ones(int(self._keep.sum()), dtype=torch.int64), *(t[self._keep] for t in fields))

    def divergence(self, strengths: Tensor) -> float:
        """Return the mean KL(p_μ ‖ p_0) over the options' tokens, in nats."""
        rows = self.choices.row[self._keep[self.choices.options.question]]
        return self.inner.counting(rows, start=self.start).divergence(strengths)

    def terms(self) -> StrengthTerms:
        """Return the paper's per-token terms, of all tokens of the right answers."""
        return self._answers.terms()

    def _options(self, strengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return s_o [R], ∇s_o [R, k] and H_o [R, k, k]; 0 for an option without a token of its own."""
        sums, rows, k = self.inner.example_sums(strengths), len(self.choices.row), self.num_directions
        place = torch.searchsorted(self.choices.row, self.inner.examples)
        scores, slopes = (torch.zeros(rows, *shape, dtype=torch.float64) for shape in ((), (k,)))
        curvature = torch.zeros(rows, k, k, dtype=torch.float64)
        scores[place], slopes[place], curvature[place] = sums.log_prob, -sums.gradient, sums.hessian
        return scores, slopes, curvature

    def _total(self, weight: Tensor, values: Tensor) -> Tensor:
        """Return Σ weight · values over each question's options: [R] and [R, …] → [Q, …]."""
        zeros = torch.zeros(len(self.choices.number), *values.shape[1:], dtype=torch.float64)
        weight = weight.view(-1, *[1] * (values.ndim - 1))
        return zeros.index_add_(0, self.choices.options.question, weight * values)
