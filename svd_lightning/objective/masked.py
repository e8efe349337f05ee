"""K(μ) on the compact table: mean NLL of the labels under the steered distribution, convex in μ."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from svd_lightning.errors import InputError
from svd_lightning.functional import StrengthTerms
from svd_lightning.objective.interface import Along, Evaluation, ExampleSums, single
from svd_lightning.objective.tokens import TokenTable
from svd_lightning.steering import SteeringRule


@dataclass
class _Shared:
    """What the objective and its folds compute once."""

    unsteered: Tensor | None = None
    """Log-normaliser of each token at μ = 0, [N]."""
    terms: StrengthTerms | None = None


class MaskedObjective(Along):
    """K(μ) of the masked steering, exactly, from the compact table.

    ẑ = log p + Σ_k μ_k d_k on confident entries; the rest weighs exp(λ) times its mass. With λ = −∞ a label
    outside the mask would make K infinite: those tokens are left out, and the table's `coverage` counts them.

    Args:
        table: the calibration tokens.
        rules: the directions d_k.
        penalty: λ ≤ 0.

    Raises:
        InputError: if λ = −∞ and no label lies inside the mask.
    """

    def __init__(self, table: TokenTable, rules: Sequence[SteeringRule], *, penalty: float = -math.inf) -> None:
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
        self._label_entry, self._covered = self.table.label_entry, self.table.covered
        self._label_directions = self._directions[:, self._label_entry] * self._covered  # 0 outside the mask
        self._label_outside = self.table.label_log_p.double() + penalty
        self._counted = torch.ones(self.table.num_tokens, dtype=torch.float64)
        self._counted_entries = torch.ones(len(self._log_p), dtype=torch.float64)
        self._keep_whole: Tensor | None = None
        self._shared = _Shared()

    def counting(self, examples: Tensor, *, start: Tensor) -> "MaskedObjective":
        """Return K over these examples (int64 numbers); the others stay loaded (for folds)."""
        fold = copy.copy(self)
        fold._counted = torch.isin(self.table.example, examples).double()
        fold._counted_entries = fold._counted[self.table.rows()]
        fold._keep_whole = torch.isin(self._whole.example, examples)
        fold.start = start
        return fold

    def restricted(self, examples: Tensor) -> "MaskedObjective":
        """Return K on the tokens of these examples (int64 numbers) alone; costs only them."""
        mine = self._whole.select(torch.isin(self._whole.example, examples))
        return MaskedObjective(mine, self._rules, penalty=self._penalty)

    @property
    def examples(self) -> Tensor:
        """Numbers of the examples that count, int64 [E], ascending."""
        return self.table.example[self._counted > 0].unique()

    def label_log_probs(self, strengths: Tensor) -> Tensor:
        """Return the steered log-probability of the label of each token of `table`, float64 [N]."""
        return self._label_log_probs(*self._normalise(strengths))

    def evaluate(self, strengths: Tensor) -> Evaluation:
        """Return K(μ), its gradient and its Hessian, means over tokens."""
        steered, normaliser = self._normalise(strengths)
        counted = self._counted
        weighted, mean = self._weighted(steered, normaliser)
        nll = -(counted * self._label_log_probs(steered, normaliser)).sum()
        gradient = ((mean - self._label_directions) * counted).sum(dim=1)
        hessian = (weighted * self._counted_entries) @ self._directions.T - (mean * counted) @ mean.T
        n = counted.sum()
        return Evaluation((nll / n).item(), gradient / n, hessian / n)

    def example_sums(self, strengths: Tensor) -> ExampleSums:
        """Return what each example that counts adds to K, its gradient and its Hessian at μ."""
        steered, normaliser = self._normalise(strengths)
        weighted, mean = self._weighted(steered, normaliser)
        _, number = self.table.example.unique(return_inverse=True)

        def total(values: Tensor, place: Tensor) -> Tensor:
            zeros = torch.zeros(int(number.max()) + 1, *values.shape[1:], dtype=torch.float64)
            return zeros.index_add_(0, place, values)

        hessian = total(weighted.T.unsqueeze(-1) * self._directions.T.unsqueeze(-2), number[self.table.rows()])
        hessian -= total(mean.T.unsqueeze(-1) * mean.T.unsqueeze(-2), number)
        sums = ExampleSums(
            torch.bincount(number),
            total(self._label_log_probs(steered, normaliser), number),
            total((mean - self._label_directions).T, number),
            hessian,
        )
        keep = torch.isin(self.table.example.unique(), self.examples)
        return ExampleSums(*(each[keep] for each in sums))

    def divergence(self, strengths: Tensor) -> float:
        """Return the mean KL(p_μ ‖ p_0) = E_{p_μ}[μ·d] − (log-normaliser at μ − log-normaliser at 0), in nats."""
        steered, normaliser = self._normalise(strengths)
        if self._shared.unsteered is None:
            _, self._shared.unsteered = self._normalise(torch.zeros_like(strengths))
        shift = (steered - normaliser[self.table.rows()]).exp() * (steered - self._log_p)
        moved = (self._counted_entries * shift).sum()
        moved -= (self._counted * (normaliser - self._shared.unsteered)).sum()
        return (moved / self._counted.sum()).item()

    def terms(self) -> StrengthTerms:
        """Return the paper's per-token terms; entries and labels outside the mask have d = 0."""
        if self._shared.terms is None:
            self._shared.terms = self._terms()
        terms, keep = self._shared.terms, self._keep_whole
        return terms if keep is None else StrengthTerms(*(field[keep] for field in terms))

    def _terms(self) -> StrengthTerms:
        table = self._whole
        [direction] = table.directions([single(self._rules)])
        rows, n = table.rows(), table.num_tokens
        p = table.log_p.double().exp()

        def total(values: Tensor) -> Tensor:
            return torch.zeros(n, dtype=torch.float64).index_add_(0, rows, values)

        mean, sq_norm = total(p * direction), total(direction.square())
        outside = 1.0 - total(p)
        variance = total(p * (direction - mean[rows]).square()) + outside.clamp_min(0.0) * mean.square()
        at_label = direction[table.label_entry] * table.covered
        return StrengthTerms(at_label - mean, sq_norm, variance)

    def _label_log_probs(self, steered: Tensor, normaliser: Tensor) -> Tensor:
        return torch.where(self._covered, steered[self._label_entry], self._label_outside) - normaliser

    def _weighted(self, steered: Tensor, normaliser: Tensor) -> tuple[Tensor, Tensor]:
        """Return p_μ d at each entry [k, M], and its sum over the entries of each token, E_{p_μ}[d], [k, N]."""
        rows = self.table.rows()
        weighted = (steered - normaliser[rows]).exp() * self._directions
        mean = torch.zeros(self.num_directions, self.table.num_tokens, dtype=torch.float64)
        return weighted, mean.index_add_(1, rows, weighted)

    def _normalise(self, strengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the steered entries [M] and the log-normaliser of each token [N]."""
        rows = self.table.rows()
        steered = self._log_p + strengths.double() @ self._directions
        peak = self._rest.clone().scatter_reduce_(0, rows, steered, "amax")
        mass = (self._rest - peak).exp().index_add_(0, rows, (steered - peak[rows]).exp())
        return steered, peak + mass.log()
