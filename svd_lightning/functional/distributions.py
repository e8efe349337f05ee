"""Log-probabilities, KL divergence and label NLL, computed in log space."""

import torch
from torch import Tensor

LOG_FLOOR = -1.0e4
"""Smallest log-probability that enters a ratio: a token that a model forbids (logit −∞) stays finite."""


def log_probabilities(logits: Tensor) -> Tensor:
    """Floored log-softmax: log p = max(z − logsumexp(z), LOG_FLOOR).

    Args:
        logits: any float dtype, [..., V]; −∞ is allowed, a row of nothing but −∞ is not.

    Returns:
        float32 (float64 for float64 input), [..., V], finite. NaN or +∞ in a row make the row NaN.

    >>> log_probabilities(torch.tensor([0.0, float("-inf")])).tolist()
    [0.0, -10000.0]
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    return torch.log_softmax(logits, dim=-1, dtype=wide).clamp_min(LOG_FLOOR)


def expectation(log_p: Tensor, values: Tensor) -> Tensor:
    """E_p[v] = Σ_y p_y v_y over the last axis, [..., V] → [...]."""
    return (log_p.exp() * values).sum(dim=-1)


def kl_divergence(tuned_logits: Tensor, base_logits: Tensor) -> Tensor:
    """KL(p ‖ q) = Σ_y p_y (log p_y − log q_y), in nats, of the tuned from the base distribution.

    Args:
        tuned_logits: z_φ, [..., V].
        base_logits: z_θ, [..., V].

    Returns:
        float32 (float64 for float64 input), [...]; finite for any finite or −∞ base logits. Rounding may
        leave a value of the order −1e-7 where the two distributions agree.

    >>> kl_divergence(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.0])).item()
    0.0

    Source: Hu et al. (2025), arXiv 2509.15888, section 3.
    """
    log_p, log_q = log_probabilities(tuned_logits), log_probabilities(base_logits)
    return expectation(log_p, log_p - log_q)


def label_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """−log softmax(z)_y of the labels, in nats: logits [..., V], labels int64 [...] → [...].

    Unlike the directions, nothing is floored: a label that the logits forbid costs +∞.

    >>> round(label_nll(torch.zeros(1, 4), torch.tensor([2])).item(), 4)
    1.3863
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    picked = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return torch.logsumexp(logits.to(wide), dim=-1) - picked.to(wide)
