"""Collects the calibration table over batches and processes, as a torchmetrics Metric."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from svd_lightning.errors import InputError
from svd_lightning.functional import at_label, confidence_mask, kl_from_log_probs, log_probabilities
from svd_lightning.metrics import GatheredRows
from svd_lightning.objective.order import in_order
from svd_lightning.objective.tokens import ENTRY_FIELDS, INTEGER_FIELDS, TOKEN_FIELDS, TokenTable
from svd_lightning.steering import Feature, KLGradient, SteeringRule, feature_name, rule_name


class TokenCollector(GatheredRows):
    """Collects the `TokenTable` of a calibration split, over batches and over processes.

    `compute` returns the tokens ordered by (example, position), each once: a sampler that pads the last
    batch with repeated examples changes nothing.

    Args:
        rules: the rules whose directions the table will give.
        features: what their strengths may depend on; of another name than any rule.
        alpha: the confidence mask, in (0, 1]; smaller keeps more entries.
        tasks: the task of each example that has one; on every process for all examples.

    Source: README, "The method".
    """

    def __init__(
        self,
        rules: Sequence[SteeringRule],
        *,
        features: Sequence[Feature] = (),
        alpha: float = 0.1,
        tasks: Mapping[int, str] | None = None,
    ) -> None:
        columns = (*map(rule_name, rules), *map(feature_name, features))
        if clash := set(columns[: len(rules)]) & set(columns[len(rules) :]):
            raise InputError(f"features: expected other names than the rules', got {', '.join(clash)}; rename it")
        super().__init__(_no_rows(len(columns)))
        self.rules, self.features, self.alpha, self.tasks = tuple(rules), tuple(features), alpha, dict(tasks or {})
        self.columns = columns

    def update(
        self, tuned_logits: Tensor, base_logits: Tensor, labels: Tensor, example: Tensor, position: Tensor
    ) -> None:
        """Add N tokens: logits [N, V] of both models, labels, example and position int64 [N].

        Raises:
            InputError: if the logits are not finite (−∞ apart).
        """
        log_p, log_q = log_probabilities(tuned_logits), log_probabilities(base_logits)
        label_log_p, label_log_q = at_label(log_p, labels), at_label(log_q, labels)
        _check("tuned", label_log_p)
        _check("base", label_log_q)
        mask = confidence_mask(tuned_logits, self.alpha)
        rows, entries = mask.nonzero(as_tuple=True)
        before_label = mask & (torch.arange(mask.shape[-1], device=mask.device) < labels.unsqueeze(-1))
        kl, centres = self._centres(log_p, log_q)
        new = {
            "log_p": log_p[rows, entries],
            "log_q": log_q[rows, entries],
            "rest": log_p.exp().masked_fill(mask, 0.0).sum(dim=-1).log(),
            "label_log_p": label_log_p,
            "label_log_q": label_log_q,
            "kl": kl,
            "centres": centres,
            "size": mask.sum(dim=-1),
            "slot": torch.where(at_label(mask, labels), before_label.sum(dim=-1), -1),
            "example": example,
            "position": position,
        }
        for name, value in new.items():
            getattr(self, name).append(value.detach())

    def _centres(self, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
        """Return KL(p‖q), [N], and the centre of each rule and the value of each feature, [N, R].

        Most rules need the KL, which is computed once.
        """
        kl = kl_from_log_probs(log_p, log_q)
        columns = []
        for rule in self.rules:
            shared = type(rule).centre is KLGradient.centre and not vars(rule)
            columns.append(kl if shared else rule.centre(log_p, log_q))
        columns += [feature.value(log_p, log_q) for feature in self.features]
        return kl, torch.stack(columns, dim=-1) if columns else log_p.new_zeros(len(log_p), 0)

    def compute(self) -> TokenTable:
        """Return the table on the CPU, in order and without repetitions.

        Raises:
            InputError: if nothing was added.
        """
        tensors = self._joined()
        if not tensors["size"].numel():
            raise InputError("calibration split: expected at least one completion token, got none")
        table = TokenTable(tensors, alpha=self.alpha, rule_names=self.columns, tasks=self.tasks)
        return table.select(in_order(table.example, table.position))


def _no_rows(columns: int) -> dict[str, Tensor]:
    """Return every field without tokens, in its dtype and shape."""
    return {
        name: torch.zeros(
            (0, columns) if name == "centres" else 0,
            dtype=torch.int64 if name in INTEGER_FIELDS else torch.float32,
        )
        for name in ENTRY_FIELDS + TOKEN_FIELDS
    }


def _check(name: str, label_log_probs: Tensor) -> None:
    """Refuse logits that are not finite: a NaN or +∞ in a row makes all its log-probabilities NaN."""
    if label_log_probs.isnan().any():
        raise InputError(
            f"{name} logits: expected finite numbers, got NaN or +inf during calibration; the "
            "adapter may have diverged (lower the learning rate) or the dtype overflowed (use bfloat16)"
        )
