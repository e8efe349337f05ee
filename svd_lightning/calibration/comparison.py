"""Steering recipes side by side on one table of tokens."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from svd_lightning.calibration.objective import MaskedObjective
from svd_lightning.calibration.tokens import TokenTable
from svd_lightning.steering import SteeringRule


@dataclass(frozen=True)
class Score:
    """What a recipe achieves on a table of tokens."""

    nll: float
    """Mean NLL of all tokens in nats; the mask only silences the steering (λ = 0)."""
    nll_decoded: float
    """Mean NLL in nats under the distribution that decoding uses; with λ = −∞ of the covered tokens."""
    accuracy: float
    """Share of tokens whose label ranks first among the confident ones: what greedy decoding with λ = −∞ picks."""


def score(
    table: TokenTable, rules: Sequence[SteeringRule], strengths: Sequence[float], *, penalty: float
) -> Score:
    """Score steering with these strengths; strengths of 0 give the tuned model.

    Teacher forcing with λ = −∞ would make every label outside the mask impossible: `nll` takes λ = 0 instead,
    `nll_decoded` leaves those tokens out.
    """
    mu = torch.tensor(strengths, dtype=torch.float64)
    nll = MaskedObjective(table, rules, penalty=0.0).evaluate(mu).nll
    decoded = MaskedObjective(table, rules, penalty=penalty).evaluate(mu).nll if table.coverage else math.nan
    return Score(nll, decoded, _accuracy(table, table.log_p.double() + mu @ table.directions(rules)))


def _accuracy(table: TokenTable, steered: Tensor) -> float:
    best = torch.full((table.num_tokens,), -math.inf, dtype=torch.float64)
    best = best.scatter_reduce_(0, table.rows(), steered, "amax")
    entry = (table.size.cumsum(0) - table.size + table.slot)[table.covered]
    return (steered[entry] >= best[table.covered]).sum().item() / table.num_tokens


def base_nll(table: TokenTable) -> float:
    """Mean NLL of the labels under the base, in nats."""
    return -table.label_log_q.double().mean().item()


def tuned_nll(table: TokenTable) -> float:
    """Mean NLL of the labels under the tuned model, in nats."""
    return -table.label_log_p.double().mean().item()
