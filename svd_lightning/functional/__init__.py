"""The mathematics of steering: pure functions of tensors, torch only."""

from svd_lightning.functional.corrections import correct
from svd_lightning.functional.distributions import (
    LOG_FLOOR,
    at_label,
    can_pick,
    check_logits,
    expectation,
    kl_divergence,
    kl_from_log_probs,
    label_nll,
    log_probabilities,
    logits_error,
    widened,
)
from svd_lightning.functional.method import (
    ObjectiveTerms,
    StrengthTerms,
    confidence_mask,
    jacobian_product,
    kl_direction,
    kl_gradient,
    log_ratio,
    objective_terms,
    steer,
    strength_terms,
)

__all__ = [
    "LOG_FLOOR",
    "ObjectiveTerms",
    "StrengthTerms",
    "at_label",
    "can_pick",
    "check_logits",
    "confidence_mask",
    "correct",
    "expectation",
    "jacobian_product",
    "kl_direction",
    "kl_divergence",
    "kl_from_log_probs",
    "kl_gradient",
    "label_nll",
    "log_probabilities",
    "log_ratio",
    "logits_error",
    "objective_terms",
    "steer",
    "strength_terms",
    "widened",
]
