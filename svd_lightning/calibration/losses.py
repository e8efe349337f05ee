"""What corrections are fitted to: the likelihood of the labels, or the choice among options; with gradients."""

from typing import Protocol

import torch
from torch import Tensor

from svd_lightning.functional import at_label
from svd_lightning.objective import Choices, LabelTokens


class Loss(Protocol):
    """A loss of N tokens whose logits are shifted at k tokens, and nowhere else."""

    tokens: LabelTokens
    unit: Tensor
    """The number of each token's example or question, int64 [N]: it is what folds hold whole."""
    right: Tensor
    """Which of the tokens belong to the right answers, bool [N]."""

    def part(self, keep: Tensor) -> "Loss":
        """Return the loss of some of the tokens, bool [N]; of an example or question all or none."""
        ...

    def __call__(self, shift: Tensor) -> tuple[float, Tensor]:
        """Return the mean loss at shifts [N, k + 1] (0 in the last column), and its gradient, [N, k + 1]."""
        ...

    def total(self, shift: Tensor) -> float:
        """Return the summed loss at shifts [N, k], in float64."""
        ...


class LabelLoss:
    """Mean NLL of the labels, in nats per token; convex in the shifts."""

    def __init__(self, tokens: LabelTokens) -> None:
        self.tokens, self.unit = tokens, tokens.example
        self.right = torch.ones_like(tokens.example, dtype=torch.bool)
        self._shifted = _Shifted(tokens)

    def part(self, keep: Tensor) -> "LabelLoss":
        """Return the loss of some of the tokens."""
        return LabelLoss(self.tokens.part(keep))

    def __call__(self, shift: Tensor) -> tuple[float, Tensor]:
        """Return the mean loss and its gradient."""
        label_log_p, gradient = self._shifted.at(shift)
        return -label_log_p.mean().item(), gradient.div_(len(gradient))

    def total(self, shift: Tensor) -> float:
        """Return the summed loss."""
        return -self.tokens.label_log_probs(shift).sum().item()


class ChoiceLoss:
    """Mean of −log Σ_right exp(s_o) / Σ exp(s_o) over the questions, in nats; s_o sums an option's own tokens.

    With a the softmax of s over the options, r that over the right ones: ∂K/∂s_o = a_o − r_o, and by the logits of
    a token of option o ∂s_o/∂z = [y] − p̂. Where options are one token after the same text it is convex.

    Args:
        tokens: the options' own tokens; its examples are the rows of the choices.
        choices: the questions.
    """

    def __init__(self, tokens: LabelTokens, choices: Choices) -> None:
        self.tokens, self._choices = tokens, choices
        self._option = torch.searchsorted(choices.row, tokens.example)
        self.unit = choices.number[choices.options.question[self._option]]
        self.right = choices.options.best[self._option]
        self._shifted = _Shifted(tokens)

    def part(self, keep: Tensor) -> "ChoiceLoss":
        """Return the loss of some of the questions."""
        return ChoiceLoss(self.tokens.part(keep), self._choices.select(self.unit[keep].unique()))

    def __call__(self, shift: Tensor) -> tuple[float, Tensor]:
        """Return the mean loss and its gradient."""
        label_log_p, gradient = self._shifted.at(shift)
        scores = self._scores(label_log_p)
        share, wanted = self._choices.shares(scores)
        slope = (wanted - share)[self._option] / len(self._choices.number)
        return -self._choices.log_probs(scores).mean().item(), gradient.mul_(slope.float().unsqueeze(-1))

    def total(self, shift: Tensor) -> float:
        """Return the summed loss."""
        return -self._choices.log_probs(self._scores(self.tokens.label_log_probs(shift))).sum().item()

    def _scores(self, log_probs: Tensor) -> Tensor:
        """Return s_o of each option, float64 [R]."""
        zeros = torch.zeros(len(self._choices.row), dtype=torch.float64)
        return zeros.index_add_(0, self._option, log_probs.double())


class _Shifted:
    """The labels under shifted logits, in float32."""

    def __init__(self, tokens: LabelTokens) -> None:
        self._offsets, self._outcome = tokens.offsets.float(), tokens.outcome
        self._within = tokens.label_log_p - at_label(
            self._offsets, self._outcome
        )  # its share of the outcome stays

    def at(self, shift: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p̂ of each label, [N], and p̂ − [y], the gradient of −log p̂ by the logits, [N, k + 1]."""
        log_p, place = (self._offsets + shift).log_softmax(dim=-1), self._outcome.unsqueeze(-1)
        label_log_p = self._within + log_p.gather(-1, place).squeeze(-1)
        return label_log_p, log_p.exp_().scatter_add_(-1, place, torch.full_like(log_p[:, :1], -1.0))
