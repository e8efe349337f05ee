"""One streaming pass over the calibration split, kept as a torchmetrics Metric."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from svd_lightning.calibration.tokens import ENTRY_FIELDS, TOKEN_FIELDS, TokenTable
from svd_lightning.errors import InputError
from svd_lightning.functional import confidence_mask, expectation, log_probabilities
from svd_lightning.steering import SteeringRule, rule_name

_STATES = ENTRY_FIELDS + TOKEN_FIELDS
_DTYPES = dict.fromkeys(("size", "slot", "example", "position"), torch.int64)


class CalibrationTable(Metric):
    """Accumulates the `TokenTable` of a calibration split, over batches and over processes.

    `compute` returns the tokens ordered by (example, position), each once: a sampler that pads the last
    batch with repeated examples changes nothing.

    Args:
        rules: the rules that may be asked of the table later.
        alpha: the confidence mask, in (0, 1]; smaller keeps more entries.

    Source: README, "The method".
    """

    full_state_update = False
    is_differentiable = False

    def __init__(self, rules: Sequence[SteeringRule], *, alpha: float = 0.1) -> None:
        super().__init__()
        self.rules, self.alpha = tuple(rules), alpha
        for name in _STATES:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(
        self, tuned_logits: Tensor, base_logits: Tensor, labels: Tensor, example: Tensor, position: Tensor
    ) -> None:
        """Add N tokens: logits [N, V] of both models, labels, example and position int64 [N].

        Raises:
            InputError: if the logits are not finite (−∞ apart).
        """
        log_p, log_q = log_probabilities(tuned_logits), log_probabilities(base_logits)
        for name, log_probs in (("tuned", log_p), ("base", log_q)):
            if log_probs.isnan().any():
                raise InputError(
                    f"{name} logits: expected finite numbers, got NaN or +inf during calibration; the "
                    "adapter may have diverged (lower the learning rate) or the dtype overflowed (use bfloat16)"
                )
        mask = confidence_mask(tuned_logits, self.alpha)
        at_label = labels.unsqueeze(-1)
        inside = mask.gather(-1, at_label).squeeze(-1)
        rank = mask.cumsum(dim=-1).gather(-1, at_label).squeeze(-1) - 1
        centres = [rule.centre(log_p, log_q) for rule in self.rules]
        new = {
            "log_p": log_p[mask],
            "log_q": log_q[mask],
            "rest": torch.logsumexp(log_p.masked_fill(mask, -torch.inf), dim=-1),
            "label_log_p": log_p.gather(-1, at_label).squeeze(-1),
            "label_log_q": log_q.gather(-1, at_label).squeeze(-1),
            "kl": expectation(log_p, log_p - log_q),
            "centres": torch.stack(centres, dim=-1) if centres else log_p.new_zeros(len(log_p), 0),
            "size": mask.sum(dim=-1),
            "slot": rank.where(inside, -1),
            "example": example,
            "position": position,
        }
        for name, value in new.items():
            getattr(self, name).append(value.detach())

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Reduce over processes; one without tokens takes part with empty states of the right type and shape."""
        self._fill()
        super().sync(*args, **kwargs)

    def _fill(self) -> None:
        # torchmetrics would send a flat float tensor for any empty list, and the gather would fail or hang
        for name in _STATES:
            if isinstance(state := getattr(self, name), list) and not state:
                shape = (0, len(self.rules)) if name == "centres" else (0,)
                state.append(torch.zeros(shape, dtype=_DTYPES.get(name, torch.float32), device=self.device))

    def compute(self) -> TokenTable:
        """The table on the CPU, ordered and without repetitions.

        Raises:
            InputError: if nothing was added.
        """
        self._fill()
        tensors = {name: dim_zero_cat(getattr(self, name)).cpu() for name in _STATES}
        if not tensors["size"].numel():
            raise InputError("calibration split: expected at least one completion token, got none")
        return _ordered(tensors, alpha=self.alpha, rule_names=tuple(map(rule_name, self.rules)))


def _ordered(tensors: dict[str, Tensor], *, alpha: float, rule_names: tuple[str, ...]) -> TokenTable:
    """Sort tokens by (example, position) and keep the first of each, together with their entries."""
    example, position, size = tensors["example"], tensors["position"], tensors["size"]
    key = example * (position.max() + 1) + position
    key, order = key.sort(stable=True)
    first = torch.ones_like(key, dtype=torch.bool)
    first[1:] = key[1:] != key[:-1]
    order = order[first]
    starts = size.cumsum(0) - size
    kept = size[order]
    within = torch.arange(int(kept.sum())) - torch.repeat_interleave(kept.cumsum(0) - kept, kept)
    entries = torch.repeat_interleave(starts[order], kept) + within
    parts = {name: t[entries] if name in ENTRY_FIELDS else t[order] for name, t in tensors.items()}
    return TokenTable(parts, alpha=alpha, rule_names=rule_names)
