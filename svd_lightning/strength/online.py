"""Strengths that follow labelled feedback, one example at a time."""

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from svd_lightning.errors import InputError
from svd_lightning.functional import StrengthTerms
from svd_lightning.objective import Evaluation, MaskedObjective, TokenCollector, TokenTable
from svd_lightning.steering import ConfidentSet, Steering, with_built_in
from svd_lightning.strength.estimator import Estimate
from svd_lightning.strength.line_search import LineSearch


class OnlineStrength:
    """The optimum over all feedback so far, equal to `LineSearch` on the same data in one batch, in any order.

    The objective is a sum of log-sum-exps of μ, which no fixed number of sums replaces. Kept is the compact table
    of the tokens seen: a few numbers per token, with a mask all that the objective needs. `update` only adds rows.
    Asking for the strengths starts a line search at the last optimum; one more example moves it so little that one
    or two Newton steps are enough. The search takes time and memory in proportion to the rows kept. Measured on
    one core (vocabulary 4,096, answers of 10 tokens, 27 confident entries each): 2 ms for an update; for the
    strengths of three rules 7 ms after 100 examples, 73 ms after 1,000.

    With `memory` the oldest examples leave the table: each is replaced by the quadratic expansion of its NLL at
    the strengths in force, k + k² numbers in all. Time and memory are then bounded, and the result is
    **approximate**: the further the optimum still moves, the less exact it is.

    There is no guard: a few examples can give extreme strengths. `calibrate(online.table, …)` puts an interval on
    their gain at any time.

    Args:
        steering: rules, features, mask and penalty; its strengths are ignored.
        search: how the optimum is found; with features its `ridge` is a number, since it is not chosen again at
            every step.
        memory: examples kept exactly; None keeps all.

    Raises:
        InputError: for a steering without a mask, features without a ridge, or a memory below 1.
    """

    def __init__(
        self,
        steering: Steering,
        *,
        search: LineSearch = LineSearch(ridge=0.001),  # noqa: B008  has no state
        memory: int | None = None,
    ) -> None:
        if steering.alpha is None:
            raise InputError(
                "steering.alpha: online strengths keep the confident tokens only, got null; set alpha (0.001 "
                "comes close to no mask)"
            )
        if steering.features and search.ridge is None:
            raise InputError("search.ridge: expected a number with steering.features, got none; 0.001 is mild")
        if memory is not None and memory < 1:
            raise InputError(f"memory: expected at least 1 example, or None for all, got {memory}")
        self.examples = 0
        self._recipe, self._search, self._memory = steering, search, memory
        rules = {type(rule): rule for rule in (*with_built_in(steering.rules), ConfidentSet())}
        self._rows = TokenCollector(tuple(rules.values()), features=steering.features, alpha=steering.alpha)
        self._rows.sync_on_compute = False
        self._kept: deque[TokenTable] = deque()
        self._left = _Expansion(len(steering.directions))
        self._found = Estimate((0.0,) * len(steering.directions))
        self._stale = False

    def update(self, tuned_logits: Tensor, base_logits: Tensor, labels: Tensor) -> None:
        """Learn from one example.

        Args:
            tuned_logits, base_logits: of the positions that predict its labels, [T, V] each.
            labels: the right tokens, int64 [T].

        Raises:
            InputError: for no tokens, or logits that are not finite.
        """
        if not len(labels):
            raise InputError("labels: expected at least one token to learn from, got none")
        tokens = torch.arange(len(labels), device=labels.device)
        self._rows.reset()
        self._rows.to(labels.device)
        self._rows.update(tuned_logits, base_logits, labels, torch.full_like(tokens, self.examples), tokens)
        self._kept.append(self._rows.compute())
        self.examples += 1
        self._stale = True
        if self._memory is not None and len(self._kept) > self._memory:
            strengths = torch.tensor(self.estimate.strengths, dtype=torch.float64)
            oldest = self._objective(self._kept.popleft())
            if oldest is not None:
                self._left.add(oldest.evaluate(strengths), oldest.table.num_tokens, strengths)

    @property
    def estimate(self) -> Estimate:
        """The strengths with the line search's warning; zeros until there is something to learn from."""
        objective = self._objective(self.table) if self._stale else None
        if objective is not None:
            # a search does not begin at strengths that were no optimum (on a bound, or shortened)
            last = self._found.strengths if self._found.warning is None else (0.0,) * len(self._found.strengths)
            self._found = self._search(_Remembering(objective, self._left, last))
        self._stale = False
        return self._found

    @property
    def steering(self) -> Steering:
        """The steering at the strengths so far."""
        return self._recipe.with_strengths(self.estimate.strengths)

    @property
    def table(self) -> TokenTable:
        """The tokens that are kept.

        Raises:
            InputError: before the first update.
        """
        if not self._kept:
            raise InputError("online: expected at least one update before there is a table")
        names = self._kept[0].tensors()
        joined = {name: torch.cat([part.tensors()[name] for part in self._kept]) for name in names}
        return TokenTable(joined, alpha=self._kept[0].alpha, rule_names=self._kept[0].rule_names)

    def _objective(self, table: TokenTable) -> MaskedObjective | None:
        """Return K on the table; None where λ = −∞ forbids every label and there is nothing to learn."""
        if self._recipe.penalty == -torch.inf and not table.covered.any():
            return None
        return MaskedObjective(table, self._recipe.directions, penalty=self._recipe.penalty)


class _Expansion:
    """Σ K_i(μ) ≈ value + slope·μ + ½ μᵀ curvature μ over the examples that have left the table."""

    def __init__(self, k: int) -> None:
        self.tokens, self.value = 0, 0.0
        self.slope = torch.zeros(k, dtype=torch.float64)
        self.curvature = torch.zeros(k, k, dtype=torch.float64)

    def add(self, at: Evaluation, tokens: int, strengths: Tensor) -> None:
        """Add an example, expanded at these strengths; `at` holds its means over so many tokens."""
        curved = at.hessian @ strengths
        self.tokens += tokens
        self.value += tokens * (at.nll - (at.gradient @ strengths) + 0.5 * (strengths @ curved)).item()
        self.slope += tokens * (at.gradient - curved)
        self.curvature += tokens * at.hessian


class _Remembering:
    """The objective of the examples kept and of those expanded, searched from the last optimum."""

    def __init__(self, kept: MaskedObjective, left: _Expansion, start: Sequence[float]) -> None:
        self._kept, self._left = kept, left
        self.start = torch.tensor(start, dtype=torch.float64)
        self.num_directions, self.contextual = kept.num_directions, kept.contextual

    def evaluate(self, strengths: Tensor) -> Evaluation:
        """Return the means over all tokens, kept or not."""
        kept, n, left = self._kept.evaluate(strengths), self._kept.table.num_tokens, self._left
        curved, total = left.curvature @ strengths, n + left.tokens
        expanded = left.value + (left.slope @ strengths + 0.5 * (strengths @ curved)).item()
        return Evaluation(
            (n * kept.nll + expanded) / total,
            (n * kept.gradient + left.slope + curved) / total,
            (n * kept.hessian + left.curvature) / total,
        )

    def divergence(self, strengths: Tensor) -> float:
        """Return the mean KL over the examples kept."""
        return self._kept.divergence(strengths)

    def terms(self) -> StrengthTerms:
        """Return the terms of the examples kept."""
        return self._kept.terms()
