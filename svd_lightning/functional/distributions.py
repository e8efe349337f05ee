"""Log-probabilities and what is read off them: expectation, KL divergence, label NLL; all in log space."""

import torch
from torch import Tensor

from svd_lightning.errors import LogitsError

LOG_FLOOR = -1.0e4
"""Smallest log-probability that enters a ratio: a token that a model forbids (logit −∞) stays finite."""


def widened(logits: Tensor) -> Tensor:
    """The logits in the precision of all that follows: float32, or float64 if they come so."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


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


def kl_from_log_probs(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p ‖ q) = Σ_y p_y (log p_y − log q_y), in nats, of floored log-probabilities: [..., V] → [...].

    Rounding may leave −1e-7 or so where the two agree.
    """
    return expectation(log_p, log_p - log_q)


def kl_divergence(tuned_logits: Tensor, base_logits: Tensor) -> Tensor:
    """KL(p ‖ q) of the tuned from the base distribution, from the logits of both.

    Returns:
        float32 (float64 for float64 input), [...]; finite for any finite or −∞ base logits.

    >>> kl_divergence(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.0])).item()
    0.0

    Source: Hu et al. (2025), arXiv 2509.15888, section 3.
    """
    return kl_from_log_probs(log_probabilities(tuned_logits), log_probabilities(base_logits))


def at_label(values: Tensor, labels: Tensor) -> Tensor:
    """v_y of each label y: [..., V], int64 [...] → [...]."""
    return values.gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def label_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """−log softmax(z)_y of the labels, in nats: logits [..., V], labels int64 [...] → [...].

    Unlike the directions, nothing is floored: a label that the logits forbid costs +∞.

    >>> round(label_nll(torch.zeros(1, 4), torch.tensor([2])).item(), 4)
    1.3863
    """
    wide = widened(logits)
    return wide.logsumexp(dim=-1) - at_label(wide, labels)


def check_logits(name: str, logits: Tensor) -> None:
    """Refuse logits from which no token can be picked; one pass, no effect inside a compiled graph.

    Raises:
        InputError: for NaN, +∞, or nothing but −∞.
    """
    if torch.compiler.is_compiling() or logits.numel() == 0:
        return
    if not can_pick(logits).all():
        raise logits_error(name)


def can_pick(logits: Tensor) -> Tensor:
    """Return of each row whether a token can be picked: not with NaN, +∞ or only −∞; [..., V] → bool [..., 1]."""
    return logits.amax(dim=-1, keepdim=True).isfinite()


def logits_error(name: str) -> LogitsError:
    """Return the error for logits from which no token can be picked."""
    return LogitsError(
        f"{name}: expected finite numbers or -inf, got NaN or +inf (or a row of -inf only); the weights "
        "or the adapter are damaged, or the dtype overflows: try bfloat16 or float32"
    )
