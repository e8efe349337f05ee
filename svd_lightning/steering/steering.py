"""A complete recipe for steering at decode time: rules, strengths, mask and penalty."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from svd_lightning.errors import InputError
from svd_lightning.functional import confidence_mask, log_probabilities
from svd_lightning.steering.contextual import Contextual, expand
from svd_lightning.steering.features import Feature
from svd_lightning.steering.kl_gradient import KLGradient
from svd_lightning.steering.rule import SteeringRule, VocabularyBound, rule_name


@dataclass(frozen=True)
class Steering:
    """How to steer: ẑ = z_φ + Σ_k μ_k d_k on confident tokens, z_φ + λ on the others.

    With features f_j of the position each rule has a strength of its own there: μ_k = w_k0 + Σ_j w_kj f_j.

    Call it with the logits of both models, [..., V] each, to get the steered logits in float32.

    >>> tuned, base = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]).log()
    >>> Steering(strengths=(2.0,))(tuned, base).softmax(-1)
    tensor([0.6824, 0.1316, 0.1860])

    Raises:
        InputError: for α outside (0, 1], or any with a rule that belongs to a vocabulary; for λ > 0, a strength
            that is not finite, or a number of strengths that differs from the number of rules.
    """

    rules: Sequence[SteeringRule] = field(default_factory=lambda: (KLGradient(),))
    """Directions that act together, one strength each."""
    strengths: Sequence[float] | None = None
    """μ_k, one per rule (with features w_k0, w_k1, … of the first, then of the next); None until calibrated."""
    alpha: float | None = 0.1
    """Confidence mask: a token is steered when p ≥ α · max p. None steers the whole vocabulary."""
    penalty: float = -math.inf
    """λ ≤ 0, added to the logits of the tokens outside the mask; −inf forbids them."""
    features: Sequence[Feature] = ()
    """What the strengths may depend on from position to position; none leaves them constant."""

    def __post_init__(self) -> None:
        if not self.rules:
            raise InputError("steering.rules: expected at least one rule, got none; the paper's is KLGradient")
        if any(isinstance(rule, Contextual) for rule in self.rules):
            raise InputError("steering.rules: expected rules alone, got one times a feature; name it in features")
        if self.alpha is not None and not 0.0 < self.alpha <= 1.0:
            raise InputError(
                f"steering.alpha: expected a number in (0, 1] or null for no mask, got {self.alpha}; "
                "the paper uses 0.1"
            )
        if self.alpha is not None and any(isinstance(rule, VocabularyBound) for rule in self.rules):
            raise InputError(
                f"steering.alpha: expected null, got {self.alpha}: a rule with a number for each token steers "
                "all of them, and cannot be calibrated on the few that a mask keeps"
            )
        if not self.penalty <= 0.0:
            raise InputError(
                f"steering.penalty: expected λ ≤ 0 (added to tokens outside the mask), got {self.penalty}; "
                "write -.inf to forbid them or 0 to leave them as they are"
            )
        if self.strengths is not None:
            self._check_strengths(self.strengths)

    def _check_strengths(self, strengths: Sequence[float]) -> None:
        if len(strengths) != len(self.directions):
            names = ", ".join(map(rule_name, self.directions))
            each = " and one per rule and feature" if self.features else ""
            raise InputError(
                f"steering.strengths: expected one per rule{each} ({names}), "
                f"got {len(strengths)}: {list(strengths)}"
            )
        if not all(math.isfinite(strength) for strength in strengths):
            raise InputError(
                f"steering.strengths: expected finite numbers, got {list(strengths)}; "
                "calibrate again, or give the strengths yourself"
            )

    @cached_property
    def directions(self) -> tuple[SteeringRule, ...]:
        """What the strengths belong to, in order: each rule, followed by its products with the features."""
        return expand(self.rules, self.features)

    @property
    def calibrated(self) -> bool:
        """Whether the strengths are known."""
        return self.strengths is not None

    def with_strengths(self, strengths: Sequence[float]) -> "Steering":
        """The same recipe at other strengths."""
        return replace(self, strengths=tuple(map(float, strengths)))

    def with_penalty(self, penalty: float) -> "Steering":
        """The same recipe with another penalty outside the mask."""
        return replace(self, penalty=penalty)

    def __call__(self, tuned_logits: Tensor, base_logits: Tensor) -> Tensor:
        """Steered logits ẑ, [..., V] and [..., V] → float32 (or float64) [..., V]."""
        if self.strengths is None:
            raise InputError(
                "steering.strengths: not calibrated yet; run `svd-lightning fit` with the SteeringCalibration "
                "callback, `svd-lightning calibrate`, or give the strengths yourself"
            )
        log_p, log_q = log_probabilities(tuned_logits), log_probabilities(base_logits)
        unsteered = tuned_logits.to(log_p.dtype)
        steered = unsteered
        step = 1 + len(self.features)
        values = [feature.value(log_p, log_q).unsqueeze(-1) for feature in self.features]
        for number, rule in enumerate(self.rules):
            constant, *weights = self.strengths[number * step : (number + 1) * step]
            direction = rule.direction(log_p, log_q, rule.centre(log_p, log_q).unsqueeze(-1))
            steered = torch.add(steered, direction, alpha=constant)
            if weights:
                varying = [weight * value for weight, value in zip(weights, values, strict=True)]
                steered = torch.addcmul(steered, direction, torch.stack(varying).sum(dim=0))
        if self.alpha is None:
            return steered
        return torch.where(confidence_mask(unsteered, self.alpha), steered, self._penalised(unsteered))

    def _penalised(self, logits: Tensor) -> Tensor | float:
        """z + λ, without a pass over the vocabulary where λ leaves nothing of z or all of it."""
        if self.penalty == 0.0:
            return logits
        return self.penalty if math.isinf(self.penalty) else logits + self.penalty
