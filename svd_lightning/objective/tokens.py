"""The compact table of calibration tokens: what the masked objective needs, and nothing else."""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from svd_lightning.errors import InputError
from svd_lightning.steering import Contextual, SteeringRule, feature_name, rule_name

ENTRY_FIELDS = ("log_p", "log_q")
TOKEN_FIELDS = ("size", "slot", "rest", "label_log_p", "label_log_q", "kl", "centres", "example", "position")
INTEGER_FIELDS = ("size", "slot", "example", "position")


class TokenTable:
    """N calibration tokens; their M confident vocabulary entries lie one token after the other.

    Outside the confident set {y : p_y ≥ α · max p} every direction is 0, so the softmax needs of the rest
    only its total mass: strengths, penalties, folds and curves are solved on this table without a model.
    (Not a dataclass: torchmetrics would squeeze the tensors of one.)

    Args:
        tensors: one tensor for each of the names below.
        alpha: the confidence mask of the table.
        rule_names: names of the columns of `centres`: the rules, then the features.
        tasks: the task of each example that has one.

    Source: README, "The method".
    """

    log_p: Tensor
    """Tuned log-probabilities of the confident entries, [M]."""
    log_q: Tensor
    """Base log-probabilities of the confident entries, [M]."""
    size: Tensor
    """How many confident entries each token has, int64 [N]."""
    slot: Tensor
    """Where the label lies among the token's confident entries, int64 [N]; −1: outside the mask."""
    rest: Tensor
    """Log of the tuned mass outside the confident set, [N]; −inf where there is none."""
    label_log_p: Tensor
    """Tuned log-probability of the label, [N]."""
    label_log_q: Tensor
    """Base log-probability of the label, [N]."""
    kl: Tensor
    """KL(p‖q), [N]."""
    centres: Tensor
    """What each rule needs from the whole vocabulary, and each feature's value, [N, R]."""
    example: Tensor
    """Number of the example that the token belongs to, int64 [N]."""
    position: Tensor
    """Position of the token within its example, int64 [N]."""

    def __init__(
        self,
        tensors: dict[str, Tensor],
        *,
        alpha: float,
        rule_names: tuple[str, ...],
        tasks: Mapping[int, str] | None = None,
    ) -> None:
        for name in ENTRY_FIELDS + TOKEN_FIELDS:
            setattr(self, name, tensors[name])
        self.alpha, self.rule_names, self.tasks = alpha, rule_names, dict(tasks or {})
        self._directions: dict[int, tuple[SteeringRule, Tensor]] = {}  # by identity: a rule need not be hashable

    @property
    def num_tokens(self) -> int:
        """N."""
        return self.size.numel()

    @property
    def num_examples(self) -> int:
        """How many examples the tokens come from."""
        return self.example.unique().numel()

    @property
    def covered(self) -> Tensor:
        """Which tokens have a confident label, bool [N]; with λ = −∞ the others cannot be generated."""
        return self.slot >= 0

    @property
    def coverage(self) -> float:
        """Share of the tokens whose label lies inside the mask."""
        return self.covered.double().mean().item()

    @property
    def mask_size(self) -> float:
        """Mean number of confident entries per token."""
        return self.size.double().mean().item()

    def rows(self) -> Tensor:
        """Return the token to which each confident entry belongs, int64 [M]."""
        return self._rows

    @cached_property
    def _rows(self) -> Tensor:
        return torch.repeat_interleave(torch.arange(self.num_tokens), self.size)

    @property
    def label_entry(self) -> Tensor:
        """The confident entry that is each token's label, int64 [N]; without meaning where it is not `covered`."""
        return (self._first + self.slot).clamp_min(0)

    @property
    def _first(self) -> Tensor:
        return self.size.cumsum(0) - self.size

    def select(self, keep: Tensor) -> "TokenTable":
        """Return the tokens where `keep` is true (bool [N]), or these rows in this order (int64), as a table."""
        if keep.dtype == torch.bool:
            entries = keep[self.rows()]
        else:
            size = self.size[keep]
            shift = self._first[keep] - (size.cumsum(0) - size)
            entries = torch.arange(int(size.sum())) + torch.repeat_interleave(shift, size)
        kept = {name: getattr(self, name)[entries] for name in ENTRY_FIELDS}
        kept |= {name: getattr(self, name)[keep] for name in TOKEN_FIELDS}
        return TokenTable(kept, alpha=self.alpha, rule_names=self.rule_names, tasks=self.tasks)

    def part(self, keep: Tensor, example: Tensor, tasks: Mapping[int, str] | None = None) -> "TokenTable":
        """Return the tokens where `keep` is true (bool [N]), under other numbers of examples (int64 [N])."""
        tensors = self.select(keep).tensors() | {"example": example[keep]}
        return TokenTable(tensors, alpha=self.alpha, rule_names=self.rule_names, tasks=tasks)

    def narrow(self, alpha: float) -> "TokenTable":
        """Return the table at a larger α: tables nest, so it needs no model.

        Raises:
            InputError: if alpha is smaller than the table's own, or above 1.
        """
        if not self.alpha <= alpha <= 1.0:
            raise InputError(
                f"alpha: this table holds α from {self.alpha:g} to 1, got {alpha:g}; calibrate at {alpha:g}"
            )
        if alpha == self.alpha:
            return self
        rows, log_p, entry = self.rows(), self.log_p, self.label_entry
        keep = log_p >= self._largest(log_p)[rows] + math.log(alpha)
        lost = torch.where(keep, 0.0, log_p.double().exp())
        before = keep.long().cumsum(0) - keep.long()
        tensors = self.tensors() | {
            "log_p": log_p[keep],
            "log_q": self.log_q[keep],
            "size": torch.zeros_like(self.size).index_add_(0, rows, keep.long()),
            "slot": torch.where(self.covered & keep[entry], before[entry] - before[self._first], -1),
            "rest": self.rest.double().exp().index_add_(0, rows, lost).log().float(),
        }
        return TokenTable(tensors, alpha=alpha, rule_names=self.rule_names, tasks=self.tasks)

    def ranked_first(self, rules: Sequence[SteeringRule], strengths: Tensor) -> Tensor:
        """Return the tokens whose label ranks first among the confident entries, bool [N]."""
        steered = self.log_p.double() + strengths @ self.directions(rules)
        return self.covered & (steered[self.label_entry] >= self._largest(steered))

    def _largest(self, values: Tensor) -> Tensor:
        """Return the largest of the values of each token's entries, [M] → [N]."""
        lowest = torch.full((self.num_tokens,), -torch.inf, dtype=values.dtype)
        return lowest.scatter_reduce_(0, self.rows(), values, "amax")

    def tensors(self) -> dict[str, Tensor]:
        """Return every field by name."""
        return {name: getattr(self, name) for name in ENTRY_FIELDS + TOKEN_FIELDS}

    def directions(self, rules: Sequence[SteeringRule]) -> Tensor:
        """Return each rule's direction on the confident entries, float64 [k, M].

        Raises:
            InputError: if the table was built without one of the rules or features.
        """
        for rule in rules:
            if id(rule) not in self._directions:
                self._directions[id(rule)] = rule, self._direction(rule)
        return torch.stack([self._directions[id(rule)][1] for rule in rules])

    def _direction(self, rule: SteeringRule) -> Tensor:
        if isinstance(rule, Contextual):
            [direction] = self.directions([rule.rule])
            return direction * self._column(feature_name(rule.feature))
        log_p, log_q = (t.double().unsqueeze(-1) for t in (self.log_p, self.log_q))
        return rule.direction(log_p, log_q, self._column(rule_name(rule)).unsqueeze(-1)).squeeze(-1)

    def _column(self, name: str) -> Tensor:
        """Return a rule's centre or a feature's value at the position of each confident entry, float64 [M]."""
        if name not in self.rule_names:
            raise InputError(
                f"rules: the calibration table knows {', '.join(self.rule_names)}, got {name}; "
                "name it in the table's rules and calibrate again"
            )
        return self.centres[:, self.rule_names.index(name)].double()[self.rows()]
