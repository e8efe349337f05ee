"""Objectives for the tests of this folder, and a stub that only knows per-token terms."""

import torch

from svd_lightning.functional import StrengthTerms
from svd_lightning.objective import MaskedObjective, Objective, objective
from tests.objective import reference
from tests.objective.reference import Tokens


def masked(data: Tokens, rules=reference.RULES[:1], *, penalty=-torch.inf, alpha=0.1, batch=None) -> Objective:
    """The objective on the compact table."""
    return MaskedObjective(reference.table(data, alpha=alpha, batch=batch), rules, penalty=penalty)


def streamed(data: Tokens, rules=reference.RULES[:1], *, batch=None) -> Objective:
    """The unmasked objective."""
    return objective(reference.stream(data, chunk=batch), rules)


class GivenTerms:
    """A single direction of which only the terms are known: b, ‖d‖² and Var_p[d] of each token."""

    num_directions = 1

    def __init__(self, inner, sq_norm, variance) -> None:
        columns = (torch.as_tensor(column, dtype=torch.float64) for column in (inner, sq_norm, variance))
        self._terms = StrengthTerms(*columns)

    def terms(self) -> StrengthTerms:
        return self._terms
