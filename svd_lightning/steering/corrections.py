"""Corrections that read the tuned model alone: its adapter's scale, or numbers for each of a few tokens."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeVar

import torch
from torch import Tensor

from svd_lightning.errors import InputError
from svd_lightning.functional import correct, widened
from svd_lightning.steering.steering import Steering, SteeringFunction

_KindT = TypeVar("_KindT", bound="_OfTokens")


@dataclass(frozen=True)
class AdapterScale:
    """ẑ = z of the adapter with its scaling times s: the tuned model, nearer to the base or further from it.

    It is a change of the model, not of its logits: whoever runs the model does so at `adapter_scale(steering)`. So
    all rows of a batch share it.

    Raises:
        InputError: for a scale that is not a finite number above 0.
    """

    scale: float
    """s; 1 is the tuned model as it is."""
    words: ClassVar[str] = "adapter scale"
    reads_states: ClassVar[bool] = False
    by_task: ClassVar[bool] = False
    tokens: ClassVar[Tensor] = torch.zeros(0, dtype=torch.int64)
    """The tokens that it shifts by itself: none."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0.0):
            raise InputError(f"adapter scale: expected a finite number above 0, got {self.scale}")

    @property
    def size(self) -> str:
        """What was found, in words."""
        return f"× {self.scale:.3g}"

    def tensors(self) -> dict[str, Tensor]:
        """Return it as tensors alone."""
        return {"scale": torch.tensor(self.scale, dtype=torch.float64)}

    @classmethod
    def from_tensors(cls, content: Mapping[str, Tensor]) -> "AdapterScale":
        """Return what `tensors` wrote."""
        return cls(content["scale"].item())

    def __call__(self, logits: Tensor, states: Tensor | None = None) -> Tensor:
        """Return the logits, which come from the model at this scale, as float32 (or float64) [..., V]."""
        return widened(logits)


@dataclass(frozen=True, eq=False)
class _OfTokens:
    """A shift of a few tokens' logits."""

    tokens: Tensor
    """The corrected tokens, int64 [k], each once."""
    weights: Tensor
    """Of what the shift is linear in, float32, a row (or a number) for each token."""
    by_task: ClassVar[bool] = True
    """Whether the rows of one batch may differ in it."""

    @property
    def size(self) -> str:
        """What was found, in words."""
        return f"{len(self.tokens)} tokens"

    def tensors(self) -> dict[str, Tensor]:
        """Return it as tensors alone."""
        return {"tokens": self.tokens, "weights": self.weights}

    @classmethod
    def from_tensors(cls: "type[_KindT]", content: Mapping[str, Tensor]) -> "_KindT":
        """Return what `tensors` wrote."""
        return cls(content["tokens"], content["weights"])


@dataclass(frozen=True, eq=False)
class LabelBias(_OfTokens):
    """ẑ_v = z_v + b_v for the tokens v of the labels, z_v elsewhere; the same at every position.

    >>> import torch
    >>> LabelBias(torch.tensor([1]), torch.tensor([0.5]))(torch.zeros(3)).tolist()
    [0.0, 0.5, 0.0]
    """

    weights: Tensor
    """b, float32 [k]."""
    words: ClassVar[str] = "label bias"
    reads_states: ClassVar[bool] = False

    @staticmethod
    def features(states: Tensor) -> Tensor:
        """Return what the shift of a token is linear in, x of the head's inputs: [N, H] → 1, [N, 1]."""
        return torch.ones(len(states), 1)

    @classmethod
    def fitted(cls, tokens: Tensor, weights: Tensor) -> "LabelBias":
        """Return the correction of these tokens, int64 [k], by the weights of the features, [k, 1]."""
        return cls(tokens, weights.squeeze(-1))

    def shift(self, states: Tensor | None) -> Tensor:
        """Return what is added to the logits of the tokens, [k]."""
        return self.weights

    def __call__(self, logits: Tensor, states: Tensor | None = None) -> Tensor:
        """Return the corrected logits, [..., V] → float32 (or float64) [..., V]."""
        return correct(logits, self.tokens.to(logits.device), self.shift(states).to(logits.device))


@dataclass(frozen=True, eq=False)
class Prior(LabelBias):
    """ẑ_v = z_v + μ·(d_v − d_other), d_v = log((n_v + κ) / (E_v + κ)), for the tokens v of the labels.

    n_v is how often v is a label, E_v how often the tuned model expects it, the sum of its probabilities; all
    other tokens together are one outcome. So μ and κ alone are fitted, where `LabelBias` fits a number per token.
    """

    words: ClassVar[str] = "prior"


@dataclass(frozen=True, eq=False)
class CalibratedHead(_OfTokens):
    """ẑ_v = z_v + w_v·h for the tokens v of the labels, z_v elsewhere; h is what the tuned model gives its head.

    A convex fit (multinomial logistic regression with offsets) that takes k rows at decoding. Where the model's
    logits are its head's output as it is, it is LoRA on the head: A = W and B the k unit columns.

    >>> import torch
    >>> head = CalibratedHead(torch.tensor([1]), torch.tensor([[0.5, -1.0]]))
    >>> head(torch.zeros(3), torch.tensor([2.0, 0.25])).tolist()
    [0.0, 0.75, 0.0]
    """

    weights: Tensor
    """W, float32 [k, H]."""
    words: ClassVar[str] = "calibrated head"
    reads_states: ClassVar[bool] = True

    @staticmethod
    def features(states: Tensor) -> Tensor:
        """Return what the shift of a token is linear in: the head's inputs themselves, [N, H]."""
        return states

    @classmethod
    def fitted(cls, tokens: Tensor, weights: Tensor) -> "CalibratedHead":
        """Return the correction of these tokens, int64 [k], by the weights of the features, [k, H]."""
        return cls(tokens, weights)

    def shift(self, states: Tensor | None) -> Tensor:
        """Return what is added to the logits of the tokens, W·h: the head's inputs [..., H] → [..., k].

        Raises:
            InputError: for inputs of another size than the head was fitted to.
        """
        assert states is not None
        if states.shape[-1] != self.weights.shape[-1]:
            raise InputError(
                f"correction: this calibrated head was fitted to states of {self.weights.shape[-1]} numbers, and "
                f"the model gives its head {states.shape[-1]}; calibrate again with this model"
            )
        weights = self.weights.to(states.device)
        return states.to(weights.dtype) @ weights.T

    def __call__(self, logits: Tensor, states: Tensor | None = None) -> Tensor:
        """Return the corrected logits: [..., V] and the head's inputs [..., H] → float32 (or float64) [..., V]."""
        return correct(logits, self.tokens.to(logits.device), self.shift(states))


TokenCorrection = LabelBias | CalibratedHead
"""What is added to the tuned logits of a few tokens without looking at the base."""

Correction = AdapterScale | TokenCorrection
"""What corrects the tuned model without looking at the base."""

CORRECTIONS: Mapping[str, type[Correction]] = {
    kind.__name__: kind for kind in (AdapterScale, Prior, LabelBias, CalibratedHead)
}
"""All kinds by name, those of the fewest parameters first."""

TokenCorrectionName = Literal["Prior", "LabelBias", "CalibratedHead"]
CorrectionName = Literal["AdapterScale", TokenCorrectionName]
"""The names of `CORRECTIONS`, for what checks a command line."""


def correction_name(correction: Correction) -> str:
    """Return the name of a correction in tables, reports and checkpoints: its class name."""
    return type(correction).__name__


@dataclass(frozen=True)
class Corrected(Steering):
    """A steering whose rules see corrected tuned logits; with strengths of 0 the corrected tuned model itself."""

    correction: Correction | None = None
    """Applied first, by `steered_logits`, as it may read more than logits."""

    @property
    def is_tuned(self) -> bool:
        """Whether it leaves the tuned logits as they are."""
        return self.correction is None and super().is_tuned

    @property
    def adapter_scale(self) -> float:
        """The scale at which the tuned model runs."""
        return self.correction.scale if isinstance(self.correction, AdapterScale) else 1.0

    @classmethod
    def of(cls, configured: Steering, correction: Correction) -> "Corrected":
        """Return the tuned model with a correction, unsteered: nothing is masked or penalised."""
        zeros = (0.0,) * len(configured.rules)
        plain = replace(configured, features=(), strengths=zeros, penalty=0.0)
        return cls(plain.rules, zeros, plain.alpha, 0.0, (), correction)


def corrected_logits(steering: SteeringFunction, tuned_logits: Tensor, states: Tensor | None) -> Tensor:
    """Return the tuned logits with the correction that a steering function may have; arguments as below."""
    correction = getattr(steering, "correction", None)
    return tuned_logits if correction is None else correction(tuned_logits, states)


def steered_logits(
    steering: SteeringFunction, tuned_logits: Tensor, base_logits: Tensor | None, states: Tensor | None
) -> Tensor:
    """Return the steered logits of any steering function, with the correction that it may have.

    Args:
        steering: maps (tuned logits, base logits) to steered logits.
        tuned_logits, base_logits: [..., V]; the base's may be None where the steering does not read them.
        states: what the tuned model gives its head, [..., H]; None where the steering reads none.
    """
    return steering(corrected_logits(steering, tuned_logits, states), base_logits)


def reads_base(steering: SteeringFunction) -> bool:
    """Return whether a steering function needs the base's logits; a function that does not say so does."""
    return getattr(steering, "reads_base", True)


def needs_no_base(steering: SteeringFunction, tuned_logits: Tensor) -> bool:
    """Return whether a steering function can do without the base's logits at these positions, [..., V]."""
    settles: Callable[[Tensor], bool] = getattr(steering, "settles", lambda logits: False)
    return not reads_base(steering) or settles(tuned_logits)


def forbids(steering: SteeringFunction) -> bool:
    """Return whether a steering function may make logits −∞; a function that does not say so may."""
    return getattr(steering, "forbids", True)


def is_tuned(steering: SteeringFunction) -> bool:
    """Return whether a steering function leaves the tuned logits as they are; one that does not say so may not."""
    return getattr(steering, "is_tuned", False)


def reads_states(steering: SteeringFunction) -> bool:
    """Return whether a steering function needs what the tuned model gives its head."""
    return getattr(getattr(steering, "correction", None), "reads_states", False)


def adapter_scale(steering: object) -> float:
    """Return the scale of the adapter at which a steering function wants the tuned logits; 1 unless it says so."""
    return getattr(steering, "adapter_scale", 1.0)


def other_scales(steerings: Iterable[object]) -> list[float]:
    """Return the scales other than 1 that some of the steering functions want, ascending."""
    return sorted({adapter_scale(one) for one in steerings} - {1.0})


def as_tensors(corrections: Mapping[str, Correction]) -> dict[str, dict[str, Tensor]]:
    """Return corrections by name as tensors alone, which `from_tensors` reads back."""
    return {name: one.tensors() for name, one in corrections.items()}


def from_tensors(content: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Correction]:
    """Return the corrections that `as_tensors` wrote; names that this version does not know are left out."""
    known = {name: tensors for name, tensors in content.items() if name in CORRECTIONS}
    return {name: CORRECTIONS[name].from_tensors(tensors) for name, tensors in known.items()}
