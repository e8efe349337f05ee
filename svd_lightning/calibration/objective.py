"""The calibration objective K(μ): mean NLL of the labels under the steered distribution, convex in μ."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from svd_lightning.calibration.tokens import TokenTable
from svd_lightning.errors import InputError
from svd_lightning.functional import (
    ObjectiveTerms,
    StrengthTerms,
    kl_divergence,
    log_probabilities,
    objective_terms,
    strength_terms,
)
from svd_lightning.steering import SteeringRule


class Evaluation(NamedTuple):
    """K and its derivatives at one μ, float64."""

    nll: float
    """K(μ), nats per token."""
    gradient: Tensor
    """dK/dμ_k, [k]."""
    hessian: Tensor
    """d²K/dμ_k dμ_l, [k, k]."""


class Objective(Protocol):
    """All that a strength estimator may know."""

    @property
    def num_directions(self) -> int:
        """k."""
        ...

    def evaluate(self, strengths: Tensor) -> Evaluation:
        """K, gradient and Hessian at μ, float64 [k]."""
        ...

    def divergence(self, strengths: Tensor) -> float:
        """How far the steering moves the distribution: mean KL(p_μ ‖ p_0) in nats."""
        ...

    def terms(self) -> StrengthTerms:
        """Per-token slope and curvatures of a single direction at μ = 0, under the whole p."""
        ...


class MaskedObjective:
    """K(μ) of the masked steering, exactly, from the compact table.

    ẑ = log p + Σ_k μ_k d_k on confident entries; the rest weighs exp(λ) times its mass. With λ = −∞ a
    label outside the mask would make K infinite: those tokens are left out and counted by the table's
    coverage.

    Args:
        table: the calibration tokens.
        rules: the directions d_k.
        penalty: λ ≤ 0.

    Raises:
        InputError: if λ = −∞ and no label lies inside the mask.
    """

    def __init__(self, table: TokenTable, rules: Sequence[SteeringRule], *, penalty: float = -math.inf) -> None:
        self._whole, self._rules = table, tuple(rules)
        if penalty == -math.inf:
            table = table.select(table.covered)
            if not table.num_tokens:
                raise InputError(
                    f"steering.alpha: no calibration label lies inside the mask at alpha {table.alpha}, so a "
                    "penalty of -inf forbids them all; lower alpha, or set steering.penalty to a finite number"
                )
        self._directions = table.directions(rules)
        self._rows = table.rows()
        self._log_p = table.log_p.double()
        self._rest = table.rest.double() + penalty
        inside = table.covered
        self._label_entry = (table.size.cumsum(0) - table.size + table.slot)[inside]
        self._inside = inside
        self._label_outside = table.label_log_p.double()[~inside] + penalty
        self.num_tokens = table.num_tokens

    @property
    def num_directions(self) -> int:
        """How many strengths the objective has: k."""
        return len(self._rules)

    def label_log_probs(self, strengths: Tensor) -> Tensor:
        """Steered log-probability of each token's label at μ, float64 [N]."""
        steered, normaliser, _ = self._normalise(strengths)
        at_label = torch.empty(self.num_tokens, dtype=torch.float64)
        at_label[self._inside] = steered[self._label_entry]
        at_label[~self._inside] = self._label_outside
        return at_label - normaliser

    def evaluate(self, strengths: Tensor) -> Evaluation:
        """K(μ), its gradient and its Hessian, means over tokens."""
        steered, normaliser, rows = self._normalise(strengths)
        weight = (steered - normaliser[rows]).exp()
        weighted = weight * self._directions
        mean = torch.zeros(self.num_directions, self.num_tokens, dtype=torch.float64).index_add_(1, rows, weighted)
        nll = normaliser.sum() - steered[self._label_entry].sum() - self._label_outside.sum()
        gradient = mean.sum(dim=1) - self._directions[:, self._label_entry].sum(dim=1)
        hessian = weighted @ self._directions.T - mean @ mean.T
        n = self.num_tokens
        return Evaluation(nll.item() / n, gradient / n, hessian / n)

    def divergence(self, strengths: Tensor) -> float:
        """Mean KL(p_μ ‖ p_0) = E_{p_μ}[μ·d] − (log-normaliser at μ − log-normaliser at 0), in nats."""
        steered, normaliser, rows = self._normalise(strengths)
        _, before, _ = self._normalise(torch.zeros_like(strengths))
        shift = steered - self._log_p
        moved = ((steered - normaliser[rows]).exp() * shift).sum() - (normaliser - before).sum()
        return moved.item() / self.num_tokens

    def terms(self) -> StrengthTerms:
        """The paper's per-token terms: masked entries of d are 0, labels outside the mask count as 0."""
        table = self._whole
        [direction] = table.directions(_single(self._rules))
        rows, n = table.rows(), table.num_tokens
        p = table.log_p.double().exp()

        def total(values: Tensor) -> Tensor:
            return torch.zeros(n, dtype=torch.float64).index_add_(0, rows, values)

        mean, sq_norm = total(p * direction), total(direction.square())
        outside = 1.0 - total(p)
        variance = total(p * (direction - mean[rows]).square()) + outside.clamp_min(0.0) * mean.square()
        at_label = torch.zeros(n, dtype=torch.float64)
        entry = table.size.cumsum(0) - table.size + table.slot
        at_label[table.covered] = direction[entry[table.covered]]
        return StrengthTerms(at_label - mean, sq_norm, variance)

    def _normalise(self, strengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Steered entries [M], log-normaliser per token [N], and the token of each entry [M]."""
        steered = self._log_p + strengths.double() @ self._directions
        peak = self._rest.clone().scatter_reduce_(0, self._rows, steered, "amax")
        mass = (self._rest - peak).exp().index_add_(0, self._rows, (steered - peak[self._rows]).exp())
        return steered, peak + mass.log(), self._rows


Chunks = Callable[[], Iterable[tuple[Tensor, Tensor, Tensor]]]
"""Each call streams (tuned_logits [n, V], base_logits [n, V], labels [n]) over the calibration tokens."""


class StreamedObjective:
    """K(μ) of unmasked steering: every evaluation streams the logits, chunk by chunk.

    Args:
        chunks: starts a new pass over the tokens.
        rules: the directions d_k.
    """

    def __init__(self, chunks: Chunks, rules: Sequence[SteeringRule]) -> None:
        self._chunks, self._rules = chunks, tuple(rules)

    @property
    def num_directions(self) -> int:
        """How many strengths the objective has: k."""
        return len(self._rules)

    def evaluate(self, strengths: Tensor) -> Evaluation:
        """K(μ), its gradient and its Hessian, means over tokens."""
        k, n = self.num_directions, 0
        total = ObjectiveTerms(*(torch.zeros((k,) * order, dtype=torch.float64) for order in range(3)))
        for tuned_logits, base_logits, labels in self._chunks():
            log_p, directions = self._directions(tuned_logits, base_logits)
            steered = log_p.double() + torch.einsum("k,knv->nv", strengths.double().to(log_p.device), directions)
            part = objective_terms(steered, directions, labels)
            total = ObjectiveTerms(*(whole + new.cpu() for whole, new in zip(total, part, strict=True)))
            n += labels.numel()
        return Evaluation(total.nll.item() / n, total.gradient / n, total.hessian / n)

    def divergence(self, strengths: Tensor) -> float:
        """Mean KL(p_μ ‖ p_0), in nats."""
        total, n = 0.0, 0
        for tuned_logits, base_logits, labels in self._chunks():
            log_p, directions = self._directions(tuned_logits, base_logits)
            steered = log_p.double() + torch.einsum("k,knv->nv", strengths.double().to(log_p.device), directions)
            total += kl_divergence(steered, log_p.double()).sum().item()
            n += labels.numel()
        return total / n

    def terms(self) -> StrengthTerms:
        """Per-token slope and curvatures of the single rule."""
        _single(self._rules)
        parts = [
            strength_terms(tuned_logits, self._directions(tuned_logits, base_logits)[1][0], labels)
            for tuned_logits, base_logits, labels in self._chunks()
        ]
        return StrengthTerms(*(torch.cat(field).double().cpu() for field in zip(*parts, strict=True)))

    def _directions(self, tuned_logits: Tensor, base_logits: Tensor) -> tuple[Tensor, Tensor]:
        log_p, log_q = log_probabilities(tuned_logits), log_probabilities(base_logits)
        found = [r.direction(log_p, log_q, r.centre(log_p, log_q).unsqueeze(-1)).double() for r in self._rules]
        return log_p, torch.stack(found)


def _single(rules: tuple[SteeringRule, ...]) -> tuple[SteeringRule, ...]:
    if len(rules) != 1:
        raise InputError(
            f"estimator: this one is defined for a single rule, got {len(rules)}; use LineSearch for several"
        )
    return rules
