"""How a served folder says what steers: plain data in its config.json, and tensors beside the base's weights."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from svd_lightning.errors import InputError
from svd_lightning.files import strict
from svd_lightning.functional import LOG_FLOOR
from svd_lightning.steering import (
    CORRECTIONS,
    Corrected,
    Steering,
    TaskSteering,
    correction_name,
    tasks_as_plain,
    tasks_from_plain,
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
    """What a served model does with the logits of its two halves."""

    steering: TaskSteering
    arithmetic: Mapping[str, str]
    """The number formats in which the steering was calibrated."""

    @property
    def reads_base(self) -> bool:
        """Whether any task reads the base's logits; if not, the base does not run."""
        return any(one.reads_base for one in (self.steering.shared, *self.steering.own.values()))

    def as_plain(self) -> dict[str, Any]:
        """Return the entry of config.json, without the correction's tensors.

        Raises:
            InputError: for a rule or a feature that is not built in.
        """
        plain = tasks_as_plain(TaskSteering(_rules_alone(self.steering.shared), self._own(_rules_alone)))
        tasks_from_plain(plain)  # refuses classes of the user's own
        named = {
            name: correction_name(one.correction)
            for name, one in self._each().items()
            if isinstance(one, Corrected) and one.correction is not None
        }
        content = {"format_version": FORMAT_VERSION, **plain, "corrections": named}
        return strict({**content, "reads_base": self.reads_base, "arithmetic": dict(self.arithmetic)})

    def tensors(self) -> Tensors:
        """Return the tensors of the corrections, by the names that they have among the weights."""
        found: Tensors = {}
        for name, one in self._each().items():
            if isinstance(one, Corrected) and one.correction is not None:
                found |= {f"{CORRECTION}{name}.{key}": value for key, value in one.correction.tensors().items()}
        return found

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
        plain = tasks_from_plain(content)

        def whole(name: str, steering: Steering) -> Steering:
            if (kind := content["corrections"].get(name)) is None:
                return steering
            prefix = f"{CORRECTION}{name}."
            own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            rules = steering.rules, steering.strengths, steering.alpha, steering.penalty, steering.features
            return Corrected(*rules, CORRECTIONS[kind].from_tensors(own))

        own = {task: whole(_of_task(task), one) for task, one in plain.own.items()}
        return cls(TaskSteering(whole(_SHARED, plain.shared), own), content["arithmetic"])

    def finite(self) -> "Recipe":
        """Return the recipe with λ = −∞ as a λ that leaves probability 0 in float32.

        So a request that bans every token inside the mask (`min_tokens`, `bad_words`) takes the tuned model's
        order among the others, as `steer_model` does, and not a row without any token.
        """

        def one(steering: Steering) -> Steering:
            return steering.with_penalty(max(steering.penalty, LOG_FLOOR))

        return replace(self, steering=TaskSteering(one(self.steering.shared), self._own(one)))

    def _own(self, change: Any) -> dict[str, Steering]:
        return {task: change(steering) for task, steering in self.steering.own.items()}

    def _each(self) -> dict[str, Steering]:
        return {_SHARED: self.steering.shared} | {_of_task(task): one for task, one in self.steering.own.items()}


_SHARED = "shared"


def _of_task(task: str) -> str:
    return f"task.{task}"


def _rules_alone(steering: Steering) -> Steering:
    """Return a steering without the correction that it may have."""
    return Steering(
        steering.rules, steering.strengths, steering.alpha, steering.penalty, features=steering.features
    )
