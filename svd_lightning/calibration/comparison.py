"""Steering recipes side by side on one table of tokens."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from svd_lightning.objective import CalibrationTokens, objective
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
    data: CalibrationTokens, rules: Sequence[SteeringRule], strengths: Sequence[float], *, penalty: float
) -> Score:
    """Score steering with these strengths; strengths of 0 give the tuned model.

    Teacher forcing with λ = −∞ would make every label outside the mask impossible: `nll` takes λ = 0 instead,
    `nll_decoded` leaves those tokens out.
    """
    mu = torch.tensor(strengths, dtype=torch.float64)
    nll = objective(data, rules, penalty=0.0).evaluate(mu).nll
    decoded = objective(data, rules, penalty=penalty).evaluate(mu).nll if data.coverage else math.nan
    return Score(nll, decoded, data.ranked_first(rules, mu).double().mean().item())


def base_nll(data: CalibrationTokens) -> float:
    """Mean NLL of the labels under the base, in nats."""
    return -data.label_log_q.double().mean().item()


def tuned_nll(data: CalibrationTokens) -> float:
    """Mean NLL of the labels under the tuned model, in nats."""
    return -data.label_log_p.double().mean().item()
