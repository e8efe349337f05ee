"""Choices and their scores under several distributions, gathered over batches and processes."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from svd_lightning.errors import InputError
from svd_lightning.metrics.keyed_rows import KeyedRows
from svd_lightning.metrics.options import OPTION_METRICS, Options, log_mc2


class ChoiceScores:
    """Every choice of every question once. (Not a dataclass: torchmetrics would squeeze the tensors of one.)"""

    def __init__(self, number: Tensor, options: Options, tokens: Tensor, sums: Mapping[str, Tensor]) -> None:
        self.number = number
        """Number of each question, int64 [Q]."""
        self.options, self.tokens, self.sums = options, tokens, sums
        """The choices; how many tokens each has, [R]; Σ log-probabilities under each distribution, float64 [R]."""

    def select(self, keep: Tensor) -> "ChoiceScores":
        """Return the questions for which `keep` (bool [Q]) is true."""
        rows = keep[self.options.question]
        _, question = self.options.question[rows].unique(return_inverse=True)
        options = Options(question, self.options.correct[rows], self.options.best[rows])
        sums = {name: each[rows] for name, each in self.sums.items()}
        return ChoiceScores(self.number[keep], options, self.tokens[rows], sums)

    def metrics(self, name: str) -> dict[str, Tensor]:
        """Return MC1, MC2, MC3 and accuracy of each question under one distribution, float64 [Q] each.

        `…_normalised` goes by the mean log-probability per token, the others by the sum.
        """
        scores = {"": self.sums[name], "_normalised": self.sums[name] / self.tokens}
        return {
            f"{metric}{suffix}": function(self.options, score)
            for suffix, score in scores.items()
            for metric, function in OPTION_METRICS.items()
        }

    def log_probs(self, name: str) -> Tensor:
        """Return log MC2 of each question under one distribution, in nats, float64 [Q]."""
        return log_mc2(self.options, self.sums[name])


class MultipleChoice(KeyedRows):
    """Gathers the score of every choice under every distribution.

    >>> metric = MultipleChoice(["tuned"])
    >>> first = torch.tensor([True, False])
    >>> about = {"correct": first, "best": first, "tokens": torch.tensor([1, 3])}
    >>> sums = {"tuned": torch.tensor([-1.5, -3.0])}
    >>> metric.update(torch.tensor([7, 7]), torch.tensor([0, 1]), **about, sums=sums)
    >>> found = metric.compute().metrics("tuned")
    >>> found["MC1"].item(), found["MC1_normalised"].item()  # the mean per token turns it round
    (1.0, 0.0)

    Args:
        names: the distributions.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(keys=2, columns=3 + len(names))
        self.names = tuple(names)

    def update(
        self,
        question: Tensor,
        option: Tensor,
        *,
        correct: Tensor,
        best: Tensor,
        tokens: Tensor,
        sums: Mapping[str, Tensor],
    ) -> None:
        """Add n choices.

        Args:
            question, option: number of the question, and of the choice among its own, int64 [n].
            correct, best: whether it is right, and the best one, bool [n].
            tokens: how many tokens were scored, at least 1, [n].
            sums: Σ log-probabilities of these tokens under each distribution, [n].

        Raises:
            InputError: for a choice without tokens, NaN or +∞.
        """
        if (tokens < 1).any():
            raise InputError("choices: expected at least one scored token in each, got one with none")
        columns = [correct, best, tokens, *(sums[name] for name in self.names)]
        values = torch.stack([column.double() for column in columns], dim=1)
        self._add(torch.stack([question, option], dim=1), values)

    def compute(self) -> ChoiceScores:
        """Return all choices, ordered by question and option.

        Raises:
            InputError: if a question has not exactly one best choice, among its right ones.
        """
        keys, values = self.gathered()
        number, question = keys[:, 0].unique(return_inverse=True)
        correct, best, tokens, *sums = values.T
        options = Options(question, correct.bool(), best.bool())
        if not torch.equal(question[options.best & options.correct], torch.arange(len(number))):
            raise InputError("choices: expected one best choice for each question, got other numbers of them")
        return ChoiceScores(number, options, tokens, dict(zip(self.names, sums, strict=True)))
