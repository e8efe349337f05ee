"""Calibration tokens for corrections of the label tokens: the tuned distribution there, and the head's inputs."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from svd_lightning.functional import log_probabilities
from svd_lightning.metrics import GatheredRows
from svd_lightning.objective.order import in_order

FIELDS = ("log_p", "rest", "rest_top", "slot", "label_log_p", "states", "example", "position")


class LabelTokens:
    """N calibration tokens under the tuned model, at k label tokens; on the CPU, the same on every process.

    (Not a dataclass: torchmetrics would squeeze the tensors of one.)

    Args:
        tokens: the k tokens that may be corrected, int64 [k], ascending.
        rows: one tensor for each of the names below.
    """

    log_p: Tensor
    """Tuned log-probabilities of the k tokens, float32 [N, k]."""
    rest: Tensor
    """Log of the tuned mass of all others, float32 [N]."""
    rest_top: Tensor
    """The highest log-probability among all others, float32 [N]."""
    slot: Tensor
    """The label's place among the k, int64 [N]; −1 for any other token."""
    label_log_p: Tensor
    """Tuned log-probability of the label, float32 [N]."""
    states: Tensor
    """What the tuned model gives its head, float32 [N, H]."""
    example: Tensor
    """Number of the example, int64 [N]."""
    position: Tensor
    """Position within the example, int64 [N]."""

    def __init__(self, tokens: Tensor, rows: Mapping[str, Tensor]) -> None:
        self.tokens = tokens
        for name in FIELDS:
            setattr(self, name, rows[name])

    def part(self, keep: Tensor, example: Tensor | None = None) -> "LabelTokens":
        """Return some of the tokens, bool [N] or rows in an order int64, under other numbers (int64 [N])."""
        rows = {name: getattr(self, name)[keep] for name in FIELDS}
        return LabelTokens(self.tokens, rows if example is None else rows | {"example": example[keep]})

    @property
    def offsets(self) -> Tensor:
        """Log-probabilities of k + 1 outcomes, the k tokens and any other: float64 [N, k + 1]."""
        return torch.cat([self.log_p, self.rest.unsqueeze(-1)], dim=-1).double()

    @property
    def outcome(self) -> Tensor:
        """The label among the k + 1 outcomes, int64 [N]."""
        return torch.where(self.slot < 0, len(self.tokens), self.slot)

    def label_log_probs(self, shift: Tensor) -> Tensor:
        """Return log p̂_y = log p_y + s_y − log(Σ_v p_v exp s_v + rest) of the labels, float64 [N].

        Args:
            shift: s, what is added to the logits of the k tokens, [N, k].

        It is exact: the softmax needs of all other tokens only their mass.
        """
        shift = F.pad(shift.double(), (0, 1))
        moved = shift.gather(-1, self.outcome.unsqueeze(-1)).squeeze(-1)
        return self.label_log_p.double() + moved - (self.offsets + shift).logsumexp(dim=-1)

    def ranked_first(self, shift: Tensor) -> Tensor:
        """Return whether the label has the highest corrected logit of all tokens, at shifts [N, k], bool [N]."""
        highest = torch.cat([self.log_p + shift, self.rest_top.unsqueeze(-1)], dim=-1)
        label = torch.where(
            self.slot < 0, self.label_log_p, highest.gather(-1, self.outcome.unsqueeze(-1)).squeeze(-1)
        )
        return label >= highest.amax(dim=-1)


def label_tokens(labels: Sequence[Tensor], *, least: int = 2, most: int = 2000) -> Tensor:
    """Return the tokens that are labels at least twice, int64 [k], ascending; others give a fit nothing to go by.

    Args:
        labels: of each example, int64.
        least: how often.
        most: k at most; of more tokens the most frequent are taken.

    >>> label_tokens([torch.tensor([5, 3]), torch.tensor([5])]).tolist()
    [5]
    """
    tokens, counts = torch.cat([torch.zeros(0, dtype=torch.int64), *labels]).unique(return_counts=True)
    order = counts.argsort(descending=True, stable=True)[:most]
    return tokens[order[counts[order] >= least]].sort().values


class LabelCollector(GatheredRows):
    """Collects `LabelTokens` over batches and processes, each token once, by (example, position).

    Args:
        tokens: the tokens that may be corrected, int64 [k], ascending.
        hidden_size: H.
    """

    def __init__(self, tokens: Tensor, hidden_size: int) -> None:
        wide, whole = torch.float32, torch.int64
        rows = {"log_p": (len(tokens), wide), "states": (hidden_size, wide)}
        flat = {
            "rest": wide,
            "rest_top": wide,
            "label_log_p": wide,
            "slot": whole,
            "example": whole,
            "position": whole,
        }
        super().__init__(
            {name: torch.zeros(0, width, dtype=dtype) for name, (width, dtype) in rows.items()}
            | {name: torch.zeros(0, dtype=dtype) for name, dtype in flat.items()}
        )
        self.tokens = tokens

    def update(
        self, tuned_logits: Tensor, states: Tensor, labels: Tensor, example: Tensor, position: Tensor
    ) -> None:
        """Add n tokens: logits [n, V], the head's inputs [n, H], labels, example and position int64 [n]."""
        log_p, tokens = log_probabilities(tuned_logits), self.tokens.to(tuned_logits.device)
        others = log_p.index_fill(-1, tokens, -torch.inf)
        place = torch.full((log_p.shape[-1],), -1, device=log_p.device)
        place[tokens] = torch.arange(len(tokens), device=log_p.device)
        new = {
            "log_p": log_p[:, tokens],
            "rest": others.logsumexp(dim=-1),
            "rest_top": others.amax(dim=-1),
            "label_log_p": log_p.gather(-1, labels.unsqueeze(-1)).squeeze(-1),
            "slot": place[labels],
            "states": states.float(),
            "example": example,
            "position": position,
        }
        for name, value in new.items():
            getattr(self, name).append(value.detach().cpu())  # states of all tokens would fill a device

    def compute(self) -> LabelTokens:
        """Return the tokens of all processes on the CPU, in order and without repetitions."""
        found = LabelTokens(self.tokens, self._joined())
        return found.part(in_order(found.example, found.position))
