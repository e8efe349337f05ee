"""Per-token terms of the calibration objective K(μ) = −log softmax(z_φ + Σ_k μ_k d_k)_y, in O(V)."""

from typing import NamedTuple

import torch
from torch import Tensor

from svd_lightning.functional.distributions import expectation, log_probabilities


class StrengthTerms(NamedTuple):
    """What one direction says about each token, every field [...]."""

    inner: Tensor
    """b = ⟨e_y − p, d⟩, minus the slope of K at μ = 0."""
    sq_norm: Tensor
    """‖d‖², the curvature under the paper's identity Hessian."""
    variance: Tensor
    """Var_p[d], the exact curvature of K at μ = 0."""


def strength_terms(tuned_logits: Tensor, direction: Tensor, labels: Tensor) -> StrengthTerms:
    """Slope and curvatures of K along one direction at μ = 0.

    b = d_y − E_p[d];  ‖d‖² = Σ d²;  Var_p[d] = E_p[(d − E_p[d])²].

    Args:
        tuned_logits: z_φ, [..., V].
        direction: d, [..., V], 0 where the mask silences it.
        labels: int64 [...].

    Returns:
        inner, sq_norm and variance, each [...], float32 (float64 for float64 input).

    >>> strength_terms(torch.zeros(2), torch.tensor([1.0, -1.0]), torch.tensor(0))
    StrengthTerms(inner=tensor(1.), sq_norm=tensor(2.), variance=tensor(1.))

    Source: Hu et al. (2025), arXiv 2509.15888, eq. 41 to 43; exact curvature: README, "The method".
    """
    log_p = log_probabilities(tuned_logits)
    direction = direction.to(log_p.dtype)
    mean = expectation(log_p, direction)
    at_label = direction.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    variance = expectation(log_p, (direction - mean.unsqueeze(-1)).square())
    return StrengthTerms(at_label - mean, direction.square().sum(dim=-1), variance)


class ObjectiveTerms(NamedTuple):
    """Sums over tokens of the objective and its derivatives; additive over chunks and processes."""

    nll: Tensor
    """Σ K_i(μ), []."""
    gradient: Tensor
    """Σ (E_{p_μ}[d] − d_y), [k]."""
    hessian: Tensor
    """Σ Cov_{p_μ}[d], [k, k]."""


def objective_terms(logits: Tensor, directions: Tensor, labels: Tensor) -> ObjectiveTerms:
    """K, its gradient and its Hessian at steered logits, summed over tokens in float64.

    Args:
        logits: the steered logits ẑ = z_φ + Σ_k μ_k d_k of each token, [N, V]; −∞ is allowed.
        directions: d_k, [k, N, V], finite.
        labels: int64 [N].

    Returns:
        nll [], gradient [k], hessian [k, k], all float64.

    >>> objective_terms(torch.zeros(1, 2), torch.tensor([[[1.0, -1.0]]]), torch.tensor([0])).gradient.tolist()
    [-1.0]
    """
    log_p = torch.log_softmax(logits.double(), dim=-1)
    p, d = log_p.exp(), directions.double()
    mean = (p * d).sum(dim=-1)
    centred = d - mean.unsqueeze(-1)
    index = labels.view(1, -1, 1).expand(d.shape[0], -1, 1)
    gradient = (mean - d.gather(-1, index).squeeze(-1)).sum(dim=-1)
    hessian = torch.einsum("nv,knv,lnv->kl", p, centred, centred)
    return ObjectiveTerms(-log_p.gather(-1, labels.unsqueeze(-1)).sum(), gradient, hessian)
