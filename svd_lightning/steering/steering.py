"""How logits are steered at decode time: `Steering` puts rules, strengths, mask and penalty together."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from torch import Tensor

from svd_lightning.errors import InputError
from svd_lightning.functional import confidence_mask, log_probabilities, steer, widened
from svd_lightning.steering.features import Contextual, Feature, expand
from svd_lightning.steering.rules import KLGradient, SteeringRule, VocabularyBound, rule_name

SteeringFunction = Callable[[Tensor, Tensor | None], Tensor]
"""(tuned logits, base logits), [..., V] each → steered logits [..., V]; usually a `Steering`.

One with an attribute `reads_base` that is False gets None for the logits of the base, which does not run. One with
an attribute `forbids` that is False makes no logit −∞ that was none. One with a method `settles` may get None too
where that returns True of the tuned logits."""

Distribution = Literal["base", "tuned", "steered"]
"""Whose logits are decoded or evaluated."""


class Tuned:
    """The tuned model's logits as they are."""

    reads_base = forbids = False
    is_tuned = True

    def __call__(self, tuned_logits: Tensor, base_logits: Tensor | None = None) -> Tensor:
        """Return the tuned logits, [..., V]."""
        return tuned_logits


def _base(tuned_logits: Tensor, base_logits: Tensor | None) -> Tensor:
    assert base_logits is not None
    return base_logits


UNSTEERED: dict[str, SteeringFunction] = {"base": _base, "tuned": Tuned()}
"""The two distributions that steering is compared with, as steering functions."""


@dataclass(frozen=True)
class Steering:
    """How to steer: ẑ = z_φ + Σ_k μ_k d_k on confident tokens, z_φ + λ on the others.

    With features f_j of the position each rule has a strength of its own there: μ_k = w_k0 + Σ_j w_kj f_j.

    Call it with the logits of both models, [..., V] each, to get the steered logits in float32.

    >>> import torch
    >>> tuned, base = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]).log()
    >>> Steering(strengths=(2.0,))(tuned, base).softmax(-1)
    tensor([0.6824, 0.1316, 0.1860])

    Raises:
        InputError: for α outside (0, 1], or any with a rule that belongs to a vocabulary; for λ > 0, a strength
            that is not finite, or a number of strengths that differs from the number of rules.
    """

    rules: Sequence[SteeringRule] = field(default_factory=lambda: (KLGradient(),))
    """The rules whose directions act together, one strength each."""
    strengths: Sequence[float] | None = None
    """μ_k, one per rule (with features w_k0, w_k1, … of each rule in turn); None until calibrated."""
    alpha: float | None = 0.1
    """Confidence mask: a token is steered when p ≥ α · max p. None steers the whole vocabulary."""
    penalty: float = -math.inf
    """λ ≤ 0, added to the logits of the tokens outside the mask; −inf forbids them."""
    features: Sequence[Feature] = ()
    """What the strengths may depend on from position to position; without any they are constant."""

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

    @property
    def reads_base(self) -> bool:
        """Whether the base's logits matter: some rule that looks at them has a strength other than 0."""
        if self.strengths is None or (self.features and any(self.strengths)):
            return True
        rules = zip(self.strengths, self.directions, strict=True)
        return any(strength and getattr(rule, "reads_base", True) for strength, rule in rules)

    @property
    def is_tuned(self) -> bool:
        """Whether it leaves the tuned logits as they are."""
        return self.calibrated and not any(self.strengths or ()) and (self.alpha is None or self.penalty == 0.0)

    @property
    def forbids(self) -> bool:
        """Whether tokens outside the mask get −∞."""
        return self.alpha is not None and self.penalty == -math.inf

    def settles(self, tuned_logits: Tensor) -> bool:
        """Return whether mask and λ = −∞ leave one token at every position, [..., V], whatever the base says."""
        if self.alpha is None or not self.forbids:
            return False
        return bool((confidence_mask(tuned_logits, self.alpha).sum(dim=-1) == 1).all())

    def with_strengths(self, strengths: Sequence[float]) -> "Steering":
        """Return the same rules, mask and penalty at other strengths."""
        return replace(self, strengths=tuple(map(float, strengths)))

    def with_penalty(self, penalty: float) -> "Steering":
        """Return the same rules and strengths with another penalty outside the mask."""
        return replace(self, penalty=penalty)

    def __call__(self, tuned_logits: Tensor, base_logits: Tensor | None) -> Tensor:
        """Return the steered logits ẑ, [..., V] and [..., V] → float32 (or float64) [..., V].

        Where `reads_base` is False, or `settles` True, the base's logits may be None. (In the second case they may
        change the logit of the one token that is left, not its probability.)
        """
        log_p = log_probabilities(tuned_logits)
        log_q = log_p if base_logits is None else log_probabilities(base_logits)
        logits = widened(tuned_logits)
        mask = None if self.alpha is None else confidence_mask(logits, self.alpha)
        directions = (rule.direction(log_p, log_q, rule.centre(log_p, log_q).unsqueeze(-1)) for rule in self.rules)
        strengths = self.strengths_at(log_p, log_q)
        return steer(logits, directions, mask, strength=strengths, penalty=self.penalty)

    def strengths_at(self, log_p: Tensor, log_q: Tensor) -> Sequence[float | Tensor]:
        """Return μ_k of each rule: a number, or with features one for each position, [..., 1]."""
        if self.strengths is None:
            raise InputError(
                "steering.strengths: not calibrated yet; run `svd-lightning fit` with the SteeringCalibration "
                "callback, `svd-lightning calibrate`, or give the strengths yourself"
            )
        if not self.features:
            return self.strengths
        values = [feature.value(log_p, log_q).unsqueeze(-1) for feature in self.features]
        step, strengths = 1 + len(values), []
        for first in range(0, len(self.strengths), step):
            constant, *weights = self.strengths[first : first + step]
            strengths.append(constant + sum(weight * value for weight, value in zip(weights, values, strict=True)))
        return strengths
