"""How a served folder says what steers: plain data in its config.json, and tensors beside the base's weights."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor

from svd_lightning.errors import InputError
from svd_lightning.files import strict
from svd_lightning.functional import LOG_FLOOR
from svd_lightning.steering import (
    CORRECTIONS,
    Corrected,
    Correction,
    Steering,
    as_plain,
    correction_name,
    from_plain,
)

FORMAT_VERSION = 1
"""Raised when older code cannot serve the folder correctly."""

KEY = "svd_lightning"
"""The entry of config.json, and the first part of the names of the tensors."""

ADAPTER, CORRECTION = f"{KEY}.adapter.", f"{KEY}.correction."

ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Gemma3ForCausalLM",
)
"""The bases that can be served; transformers and vLLM call them the same."""

Tensors = dict[str, Tensor]


def steered_name(architecture: str) -> str:
    """Return what the plugin calls a steered base.

    >>> steered_name("LlamaForCausalLM")
    'SteeredLlamaForCausalLM'
    """
    return f"Steered{architecture}"


@dataclass(frozen=True)
class Recipe:
    """What a served model does with the logits of its two halves, the same for all requests."""

    steering: Steering
    arithmetic: Mapping[str, str]
    """The number formats in which the steering was calibrated."""

    @property
    def _correction(self) -> Correction | None:
        return getattr(self.steering, "correction", None)

    def as_plain(self) -> dict[str, Any]:
        """Return the entry of config.json, without the correction's tensors.

        Raises:
            InputError: for a rule or a feature that is not built in.
        """
        steering, correction = self.steering, self._correction
        rules = Steering(*(getattr(steering, each.name) for each in fields(Steering)))
        from_plain(plain := as_plain(rules))  # refuses classes of the user's own
        content = {
            "format_version": FORMAT_VERSION,
            "steering": plain,
            "tasks": {},  # of format 1, where a task might have had a steering of its own
            "corrections": {} if correction is None else {_SHARED: correction_name(correction)},
            "reads_base": steering.reads_base,  # if not, the base does not run
        }
        return strict({**content, "arithmetic": dict(self.arithmetic)})

    def tensors(self) -> Tensors:
        """Return the tensors of the correction, by the names that they have among the weights."""
        own = {} if self._correction is None else self._correction.tensors()
        return {f"{CORRECTION}{_SHARED}.{key}": value for key, value in own.items()}

    @classmethod
    def read(cls, content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Recipe":
        """Return what `as_plain` and `tensors` gave.

        Raises:
            InputError: for a newer format.
        """
        if content["format_version"] > FORMAT_VERSION:
            raise InputError(
                f"model: the folder has format {content['format_version']}, this version of svd-lightning reads "
                f"up to {FORMAT_VERSION}; upgrade svd-lightning where vLLM runs"
            )
        steering, kind = from_plain(content["steering"]), content["corrections"].get(_SHARED)
        if kind is not None:
            prefix = f"{CORRECTION}{_SHARED}."
            own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            rules = {each.name: getattr(steering, each.name) for each in fields(Steering)}
            steering = Corrected(**rules, correction=CORRECTIONS[kind].from_tensors(own))
        return cls(steering, content["arithmetic"])

    def finite(self) -> "Recipe":
        """Return the recipe with λ = −∞ as a λ that leaves probability 0 in float32.

        So a request that bans every token inside the mask (`min_tokens`, `bad_words`) takes the tuned model's
        order among the others, as `steer_model` does, and not a row without any token.
        """
        return replace(self, steering=self.steering.with_penalty(max(self.steering.penalty, LOG_FLOOR)))


_SHARED = "shared"
"""The name of the one correction."""
