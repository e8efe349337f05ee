"""The calibration objective K(μ): mean NLL of the labels under the steered distribution, convex in μ."""

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from svd_lightning.errors import InputError
from svd_lightning.functional import StrengthTerms
from svd_lightning.steering import Contextual, SteeringRule

if TYPE_CHECKING:
    from svd_lightning.objective.tokens import TokenTable


class Evaluation(NamedTuple):
    """K and its derivatives at one μ, float64."""

    nll: float
    """K(μ), nats per token."""
    gradient: Tensor
    """dK/dμ_k, [k]."""
    hessian: Tensor
    """d²K/dμ_k dμ_l, [k, k]."""


class Shares(NamedTuple):
    """What each example adds to K and its gradient, the examples in ascending order of their numbers."""

    tokens: Tensor
    """How many of its tokens count, int64 [E]."""
    gradient: Tensor
    """dK/dμ_k summed over them, float64 [E, k]."""


class Objective(Protocol):
    """All that a strength estimator may know."""

    @property
    def num_directions(self) -> int:
        """k."""
        ...

    @property
    def start(self) -> Tensor:
        """Strengths from which a search may begin, float64 [k]: a matter of time, not of the result."""
        ...

    @property
    def contextual(self) -> Tensor:
        """Directions that are a rule times a feature, bool [k]: their weights want holding back."""
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


@runtime_checkable
class TokenObjective(Objective, Protocol):
    """What comparing recipes needs besides: each token, and some examples alone."""

    @property
    def examples(self) -> Tensor:
        """Numbers of the examples that count, int64 [E], ascending."""
        ...

    def label_log_probs(self, strengths: Tensor) -> Tensor:
        """Steered log-probability of the label of each token that can be generated, float64 [N]."""
        ...

    def part(self, examples: Tensor) -> "TokenObjective":
        """The objective as if there were these examples alone, which costs their share; some of them count."""
        ...

    def shares(self, strengths: Tensor) -> Shares:
        """The part of each example that counts in the gradient of K at μ."""
        ...

    def only(self, examples: Tensor, *, start: Tensor) -> "TokenObjective":
        """The objective of the examples with these numbers (int64), searched from `start`, float64 [k]."""
        ...


class Along:
    """What every objective along some directions is asked first.

    Args:
        rules: the directions d_k.
    """

    def __init__(self, rules: Sequence[SteeringRule]) -> None:
        self._rules = tuple(rules)
        self._start = torch.zeros(len(self._rules), dtype=torch.float64)

    @property
    def num_directions(self) -> int:
        """How many strengths the objective has: k."""
        return len(self._rules)

    @property
    def start(self) -> Tensor:
        """Strengths from which a search may begin, float64 [k]."""
        return self._start

    @property
    def contextual(self) -> Tensor:
        """Directions that are a rule times a feature, bool [k]."""
        return torch.tensor([isinstance(rule, Contextual) for rule in self._rules])


class MaskedObjective(Along):
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

    def __init__(self, table: "TokenTable", rules: Sequence[SteeringRule], *, penalty: float = -math.inf) -> None:
        super().__init__(rules)
        self.table = table.select(table.covered) if penalty == -math.inf else table
        if not self.table.num_tokens:
            raise InputError(
                f"steering.alpha: no calibration label lies inside the mask at alpha {table.alpha}, so a "
                "penalty of -inf forbids them all; lower alpha, or set steering.penalty to a finite number"
            )
        self._whole, self._penalty = table, penalty
        self._directions = self.table.directions(self._rules)
        self._log_p = self.table.log_p.double()
        self._rest = self.table.rest.double() + penalty
        self._labels = _Labels(self.table, penalty)
        self._counted = torch.ones(self.table.num_tokens, dtype=torch.float64)
        self._counted_entries = torch.ones(len(self._log_p), dtype=torch.float64)
        self._keep_whole: Tensor | None = None
        self._known: dict[str, Any] = {}  # what all parts of the objective share, once it is known

    def only(self, examples: Tensor, *, start: Tensor) -> "MaskedObjective":
        """The objective of some examples alone (int64 numbers), sharing everything else; for folds.

        Args:
            examples: numbers of the examples that count.
            start: where a search may begin, float64 [k].
        """
        part = copy.copy(self)
        part._counted = torch.isin(self.table.example, examples).double()
        part._counted_entries = part._counted[self.table.rows()]
        part._keep_whole = torch.isin(self._whole.example, examples)
        part._start = start
        return part

    def part(self, examples: Tensor) -> "MaskedObjective":
        """The objective of the table of these examples (int64 numbers)."""
        mine = self._whole.select(torch.isin(self._whole.example, examples))
        return MaskedObjective(mine, self._rules, penalty=self._penalty)

    @property
    def examples(self) -> Tensor:
        """Numbers of the examples that count, int64 [E], ascending."""
        return self.table.example[self._counted > 0].unique()

    def label_log_probs(self, strengths: Tensor) -> Tensor:
        """Steered log-probability of the label of each token of `table`, float64 [N]."""
        steered, normaliser = self._normalise(strengths)
        return self._labels.values(steered) - normaliser

    def evaluate(self, strengths: Tensor) -> Evaluation:
        """K(μ), its gradient and its Hessian, means over tokens."""
        steered, normaliser = self._normalise(strengths)
        rows, counted = self.table.rows(), self._counted
        weight = (steered - normaliser[rows]).exp()
        weighted = weight * self._directions
        mean = torch.zeros(self.num_directions, self.table.num_tokens, dtype=torch.float64)
        mean.index_add_(1, rows, weighted)
        nll = (counted * (normaliser - self._labels.values(steered))).sum()
        gradient = ((mean - self._labels.at(self._directions)) * counted).sum(dim=1)
        hessian = (weighted * self._counted_entries) @ self._directions.T - (mean * counted) @ mean.T
        n = counted.sum()
        return Evaluation((nll / n).item(), gradient / n, hessian / n)

    def shares(self, strengths: Tensor) -> Shares:
        """The part of each example that counts in the gradient of K at μ."""
        steered, normaliser = self._normalise(strengths)
        rows, counts = self.table.rows(), self._counted > 0
        mean = torch.zeros(self.num_directions, self.table.num_tokens, dtype=torch.float64)
        mean.index_add_(1, rows, (steered - normaliser[rows]).exp() * self._directions)
        slopes = (mean - self._labels.at(self._directions))[:, counts].T
        _, number, tokens = self.table.example[counts].unique(return_inverse=True, return_counts=True)
        gradient = torch.zeros(len(tokens), self.num_directions, dtype=torch.float64)
        return Shares(tokens, gradient.index_add_(0, number, slopes))

    def divergence(self, strengths: Tensor) -> float:
        """Mean KL(p_μ ‖ p_0) = E_{p_μ}[μ·d] − (log-normaliser at μ − log-normaliser at 0), in nats."""
        steered, normaliser = self._normalise(strengths)
        if "before" not in self._known:
            _, self._known["before"] = self._normalise(torch.zeros_like(strengths))
        shift = (steered - normaliser[self.table.rows()]).exp() * (steered - self._log_p)
        moved = (self._counted_entries * shift).sum()
        moved -= (self._counted * (normaliser - self._known["before"])).sum()
        return (moved / self._counted.sum()).item()

    def terms(self) -> StrengthTerms:
        """The paper's per-token terms: masked entries of d are 0, labels outside the mask count as 0."""
        if "terms" not in self._known:
            self._known["terms"] = self._terms()
        found: StrengthTerms = self._known["terms"]
        return found if self._keep_whole is None else StrengthTerms(*(field[self._keep_whole] for field in found))

    def _terms(self) -> StrengthTerms:
        table = self._whole
        [direction] = table.directions(single(self._rules))
        rows, n = table.rows(), table.num_tokens
        p = table.log_p.double().exp()

        def total(values: Tensor) -> Tensor:
            return torch.zeros(n, dtype=torch.float64).index_add_(0, rows, values)

        mean, sq_norm = total(p * direction), total(direction.square())
        outside = 1.0 - total(p)
        variance = total(p * (direction - mean[rows]).square()) + outside.clamp_min(0.0) * mean.square()
        at_label = _Labels(table, 0.0).at(direction.unsqueeze(0)).squeeze(0)
        return StrengthTerms(at_label - mean, sq_norm, variance)

    def _normalise(self, strengths: Tensor) -> tuple[Tensor, Tensor]:
        """Steered entries [M] and log-normaliser of each token [N]."""
        rows = self.table.rows()
        steered = self._log_p + strengths.double() @ self._directions
        peak = self._rest.clone().scatter_reduce_(0, rows, steered, "amax")
        mass = (self._rest - peak).exp().index_add_(0, rows, (steered - peak[rows]).exp())
        return steered, peak + mass.log()


class _Labels:
    """Where the labels of a table lie, and what to read there."""

    def __init__(self, table: "TokenTable", penalty: float) -> None:
        self._inside = table.covered
        self._entry = (table.size.cumsum(0) - table.size + table.slot).clamp_min(0)
        self._outside = table.label_log_p.double() + penalty

    def values(self, steered: Tensor) -> Tensor:
        """The label's steered logit, [M] → [N]."""
        return torch.where(self._inside, steered[self._entry], self._outside)

    def at(self, directions: Tensor) -> Tensor:
        """The label's entry of each direction, [k, M] → [k, N]; 0 outside the mask."""
        return directions[:, self._entry] * self._inside


def single(rules: tuple[SteeringRule, ...]) -> tuple[SteeringRule, ...]:
    """The rules, known to be one.

    Raises:
        InputError: for several.
    """
    if len(rules) != 1:
        raise InputError(
            f"estimator: this one is defined for a single rule, got {len(rules)}; use LineSearch for several"
        )
    return rules
