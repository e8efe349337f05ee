"""The mathematics of steering: pure functions of tensors, torch only."""

from svd_lightning.functional.distributions import (
    LOG_FLOOR,
    expectation,
    kl_divergence,
    label_nll,
    log_probabilities,
)
from svd_lightning.functional.steering import (
    confidence_mask,
    jacobian_product,
    kl_gradient,
    log_ratio,
    steer,
)
from svd_lightning.functional.strength import (
    ObjectiveTerms,
    StrengthTerms,
    objective_terms,
    strength_terms,
)

__all__ = [
    "LOG_FLOOR",
    "ObjectiveTerms",
    "StrengthTerms",
    "confidence_mask",
    "expectation",
    "jacobian_product",
    "kl_divergence",
    "kl_gradient",
    "label_nll",
    "log_probabilities",
    "log_ratio",
    "objective_terms",
    "steer",
    "strength_terms",
]
