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
