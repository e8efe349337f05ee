"""The same mathematics written another way: numpy, float64, one token at a time, Jacobian built explicitly."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax, softmax


@dataclass(frozen=True)
class Case:
    """One token: logits of both models, its label, and how to steer."""

    kind: str
    tuned: np.ndarray
    base: np.ndarray
    label: int
    alpha: float
    strength: float
    penalty: float


def cases() -> Iterator[Case]:
    """Pairs of models that are near, far apart, peaked and equal, over small and larger vocabularies."""
    rng = np.random.default_rng(20260101)
    for size in (2, 5, 17, 257, 1031):
        for alpha, strength, penalty in (
            (0.1, 0.0, 0.0),
            (0.5, 12.0, -1.0),
            (0.02, -1.5, -np.inf),
            (1.0, 0.7, -5.0),
        ):
            tuned = rng.normal(0.0, 3.0, size)
            pairs = {
                "near": (tuned, tuned + rng.normal(0.0, 0.5, size)),
                "far": (tuned, rng.normal(0.0, 3.0, size)),
                "peaked": (8.0 * tuned, rng.normal(0.0, 3.0, size)),
                "equal": (tuned, tuned + 3.25),
            }
            for kind, (left, right) in pairs.items():
                label = int(rng.integers(size))
                yield Case(kind, left, right, label, alpha, strength, penalty)


def jacobian(logits: np.ndarray) -> np.ndarray:
    """J = diag(p) − p pᵀ, [V, V]."""
    p = softmax(logits)
    return np.diag(p) - np.outer(p, p)


def kl(tuned: np.ndarray, base: np.ndarray) -> float:
    """Σ p (log p − log q)."""
    return float(softmax(tuned) @ (log_softmax(tuned) - log_softmax(base)))


def direction(tuned: np.ndarray, base: np.ndarray) -> np.ndarray:
    """J times the gradient of KL in probability space, log(p/q) + 1."""
    return jacobian(tuned) @ (log_softmax(tuned) - log_softmax(base) + 1.0)


def mask(tuned: np.ndarray, alpha: float) -> np.ndarray:
    """p ≥ α · max p."""
    p = softmax(tuned)
    return p >= alpha * p.max()


def terms(tuned: np.ndarray, d: np.ndarray, label: int) -> tuple[float, float, float]:
    """⟨e_y − p, d⟩, ‖d‖², dᵀ J d."""
    one_hot = np.eye(len(d))[label]
    return float((one_hot - softmax(tuned)) @ d), float(d @ d), float(d @ jacobian(tuned) @ d)


def steered_log_probs(case: Case) -> np.ndarray:
    """Log softmax of z + I μ d + (1 − I) λ."""
    confident = mask(case.tuned, case.alpha)
    move = np.where(confident, case.strength * direction(case.tuned, case.base), case.penalty)
    return log_softmax(case.tuned + move)
