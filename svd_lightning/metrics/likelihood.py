"""NLL, perplexity and KL to the base on completion tokens, under several distributions."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from svd_lightning.metrics.keyed_rows import KeyedRows
from svd_lightning.metrics.written import Average


class MeanNLL(Average):
    """Mean of −log p_y over completion tokens, in nats; sums in float64, additive over processes.

    >>> metric = MeanNLL()
    >>> metric.update(torch.tensor([-1.0, -3.0]))
    >>> metric.compute().item()
    2.0
    """

    higher_is_better = False

    def update(self, log_probabilities: Tensor) -> None:  # type: ignore[override]
        """Add the log-probabilities of some labels, [N]."""
        super().update(-log_probabilities)


class ScoredExamples:
    """Every example once. (Not a dataclass: torchmetrics would squeeze the tensors of one.)"""

    def __init__(self, example: Tensor, tokens: Tensor, log_probs: Tensor) -> None:
        self.example, self.tokens, self.log_probs = example, tokens, log_probs
        """Number of each example and of its tokens, int64 [E]; Σ of their log-probabilities, float64 [E]."""


class ExampleScores(KeyedRows):
    """Gathers Σ log p of every example's completion tokens.

    >>> metric = ExampleScores()
    >>> for _ in range(2):  # a repeated sample counts once
    ...     metric.update(torch.tensor([4, 4]), torch.tensor([-1.0, -0.5]))
    >>> metric.compute().log_probs
    tensor([-1.5000], dtype=torch.float64)
    """

    def __init__(self) -> None:
        super().__init__(keys=1, columns=2)

    def update(self, example: Tensor, log_probs: Tensor) -> None:
        """Add n tokens, all those of their examples.

        Args:
            example: number of each token's example, int64 [n].
            log_probs: log-probability of the token, [n].

        Raises:
            InputError: for NaN or +∞.
        """
        keys, place = example.unique(return_inverse=True)
        sums = torch.zeros(len(keys), 2, dtype=torch.float64, device=log_probs.device)
        columns = torch.stack([torch.ones_like(log_probs), log_probs], dim=1).double()
        self._add(keys.unsqueeze(1), sums.index_add(0, place, columns))

    def compute(self) -> ScoredExamples:
        """Return all examples, in order."""
        keys, values = self.gathered()
        return ScoredExamples(keys[:, 0], values[:, 0].long(), values[:, 1])


class CompletionScores:
    """Every completion token once. (Not a dataclass: torchmetrics would squeeze the tensors of one.)"""

    def __init__(self, example: Tensor, log_probs: Mapping[str, Tensor], kl: Mapping[str, Tensor]) -> None:
        self.example = example
        """Number of each token's example, int64 [N]."""
        self.log_probs, self.kl = log_probs, kl
        """Log-probability of the token, and KL(· ‖ q) to the base, under each distribution, float64 [N]."""

    def select(self, keep: Tensor) -> "CompletionScores":
        """Return the tokens for which `keep` (bool [N]) is true."""
        log_probs, kl = ({name: t[keep] for name, t in each.items()} for each in (self.log_probs, self.kl))
        return CompletionScores(self.example[keep], log_probs, kl)

    def metrics(self, name: str) -> dict[str, float]:
        """Return one distribution's NLL (nats per token), perplexity exp(NLL) and mean KL to the base (nats)."""
        nll = -self.log_probs[name].mean()
        return {"NLL": nll.item(), "perplexity": nll.exp().item(), "KL": self.kl[name].mean().item()}


class Completions(KeyedRows):
    """Gathers every completion token's log-probability and KL to the base under every distribution.

    >>> metric = Completions(["tuned"])
    >>> tokens = torch.tensor([[0, 5], [0, 6]])
    >>> fields = {"log_probs": {"tuned": torch.tensor([-1.0, -3.0])}, "kl": {"tuned": torch.tensor([0.5, 0.0])}}
    >>> for _ in range(2):  # a repeated sample counts once
    ...     metric.update(tokens[:, 0], tokens[:, 1], **fields)
    >>> metric.compute().metrics("tuned")
    {'NLL': 2.0, 'perplexity': 7.38905609893065, 'KL': 0.25}

    Args:
        names: the distributions.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(keys=2, columns=2 * len(names))
        self.names = tuple(names)

    def update(
        self, example: Tensor, position: Tensor, *, log_probs: Mapping[str, Tensor], kl: Mapping[str, Tensor]
    ) -> None:
        """Add n tokens.

        Args:
            example, position: number of the example, and place of the token in it, int64 [n].
            log_probs: log-probability of the token under each distribution, [n].
            kl: KL(· ‖ q) there from each distribution to the base, [n].

        Raises:
            InputError: for NaN or +∞.
        """
        columns = [each[name] for each in (log_probs, kl) for name in self.names]
        values = torch.stack([column.double() for column in columns], dim=1)
        self._add(torch.stack([example, position], dim=1), values)

    def compute(self) -> CompletionScores:
        """Return all tokens, ordered by example and position."""
        keys, values = self.gathered()
        columns, half = list(values.T), len(self.names)
        log_probs, kl = (dict(zip(self.names, each, strict=True)) for each in (columns[:half], columns[half:]))
        return CompletionScores(keys[:, 0], log_probs, kl)
