"""Directions, the confidence mask, and the steered logits.

Sign convention (README, "The method"): every direction points from the base to the tuned model, so a
positive strength goes further than the warm start, 0 is the tuned model, negative goes back to the base.
"""

import math

import torch
from torch import Tensor

from svd_lightning.functional.distributions import expectation, log_probabilities


def log_ratio(tuned_logits: Tensor, base_logits: Tensor) -> Tensor:
    """Log p − log q, finite: [..., V] and [..., V] → float32 (or float64) [..., V].

    >>> log_ratio(torch.tensor([0.0, 0.0]), torch.tensor([0.0, float("-inf")]))[1].item() > 9000
    True
    """
    return log_probabilities(tuned_logits) - log_probabilities(base_logits)


def jacobian_product(log_p: Tensor, vector: Tensor) -> Tensor:
    """J·v = p ⊙ (v − E_p[v]) with the softmax Jacobian J = diag(p) − p pᵀ, in O(V); [..., V] → [..., V].

    >>> jacobian_product(torch.tensor([0.5, 0.5]).log(), torch.tensor([1.0, 0.0])).tolist()
    [0.25, -0.25]
    """
    return log_p.exp() * (vector - expectation(log_p, vector).unsqueeze(-1))


def kl_gradient(tuned_logits: Tensor, base_logits: Tensor) -> Tensor:
    """Task direction of the paper: d = J·log(p/q) = p ⊙ (log(p/q) − KL(p‖q)) = ∂KL(p‖q)/∂z_φ.

    Args:
        tuned_logits: z_φ, [..., V].
        base_logits: z_θ, [..., V].

    Returns:
        float32 (float64 for float64 input), [..., V]; sums to 0; 0 where p = q.

    >>> kl_gradient(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 0.0])).sum().abs().item() < 1e-6
    True

    Source: Hu et al. (2025), arXiv 2509.15888, eq. 6 to 9, with the sign of the README (the paper's δ = −d).
    """
    log_p = log_probabilities(tuned_logits)
    return jacobian_product(log_p, log_p - log_probabilities(base_logits))


def confidence_mask(tuned_logits: Tensor, alpha: float) -> Tensor:
    """I(y) = [p_y ≥ α · max p]: the tokens that the tuned model holds plausible; [..., V] → bool [..., V].

    Raises:
        ValueError: if alpha is not in (0, 1].

    >>> confidence_mask(torch.tensor([0.0, -1.0, -9.0]), 0.1).tolist()
    [True, True, False]
    """
    if not 0.0 < alpha <= 1.0:
        raise ValueError(f"alpha: expected a number in (0, 1], got {alpha}; the paper uses 0.1")
    wide = tuned_logits.to(torch.promote_types(tuned_logits.dtype, torch.float32))
    return wide >= wide.amax(dim=-1, keepdim=True) + math.log(alpha)


def steer(
    tuned_logits: Tensor,
    direction: Tensor,
    mask: Tensor | None,
    *,
    strength: float | Tensor,
    penalty: float,
) -> Tensor:
    """Steered logits: ẑ = z_φ + μ d on confident tokens, z_φ + λ on the others.

    Args:
        tuned_logits: z_φ, [..., V].
        direction: d, [..., V], finite.
        mask: confident tokens, bool [..., V]; None steers every token.
        strength: μ, a number or a tensor that broadcasts against [..., V].
        penalty: λ ≤ 0 for the tokens outside the mask; −∞ gives them probability 0. It is added on its
            own, never multiplied by μ.

    Returns:
        float32 (float64 for float64 input), [..., V].

    >>> steer(torch.zeros(2), torch.ones(2), torch.tensor([True, False]), strength=2.0, penalty=-1.0).tolist()
    [2.0, -1.0]

    Source: Hu et al. (2025), arXiv 2509.15888, Algorithm 2, corrected as the README's errata say.
    """
    wide = tuned_logits.to(torch.promote_types(tuned_logits.dtype, torch.float32))
    steered = wide + strength * direction
    return steered if mask is None else torch.where(mask, steered, wide + penalty)
