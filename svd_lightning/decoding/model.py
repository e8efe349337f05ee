"""From a PEFT model to a steered one, over the same weights."""

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

from transformers import PreTrainedModel

from svd_lightning.decoding.plan import decoding_plan
from svd_lightning.decoding.steered import SteeredModel
from svd_lightning.models.switch import AdaptedModel, active_adapters, base_of, check_adapter, shallow_copy
from svd_lightning.steering import SteeringFunction

_OWN_STATE = (
    "generate",
    "prepare_inputs_for_generation",
    "_compiled_call",
    "_last_compile_config",
    "_previous_max_cache_length",
)
"""Attributes that PEFT, transformers and generate() leave on an instance and that belong to it alone."""


def steer_model(peft_model: AdaptedModel, steering: SteeringFunction) -> Any:
    """A causal LM whose logits are steering(tuned logits, base logits), with the full `generate()` API.

    It shares every weight and hook of the PEFT model, adds no parameter, follows later changes of the weights
    and touches the PEFT model only inside its own forward, so any number of steered models can exist beside it.
    LoRA, IA3 and prompt learning decode both distributions in one pass of 2B rows; other adapters take two.
    Do not store it as an attribute of another `nn.Module` without hiding it there (the weights would be
    registered twice).

    Args:
        peft_model: a PEFT model around a decoder-only causal LM, or such a model that transformers has loaded
            together with an adapter; in evaluation mode.
        steering: maps (tuned logits, base logits), each [B, K, V], to steered logits; usually a `Steering`.
            `lambda tuned, base: base` decodes the base model.

    Returns:
        An instance of a subclass of the base model's class; its `past_key_values` hold both models' states.

    Raises:
        InputError: for adapters whose base distribution cannot be recovered (`check_adapter`), now or at a
            later call; for prompt learning without a cache; for logits that hold NaN or +∞.

    Source: Hu et al. (2025), arXiv 2509.15888, Algorithm 2.
    """
    check_adapter(peft_model)
    base_model = base_of(peft_model)
    plan = decoding_plan(peft_model)
    model = shallow_copy(base_model, _steered_class(type(base_model), plan.model_class))  # type: ignore[arg-type]
    for name in _OWN_STATE:
        model.__dict__.pop(name, None)
    model.__dict__.update(
        plan.attributes,
        generation_config=copy.deepcopy(base_model.generation_config),
        _peft_model=peft_model,
        _base_model=base_model,
        _steering=steering,
        _adapter=active_adapters(peft_model)[0],
    )
    return model


@functools.cache
def _steered_class(model_class: type[PreTrainedModel], mixin: type[SteeredModel]) -> type:
    """The model's class with the mixin before it; pipelines know classes by their names, so it keeps the name."""
    attributes = {
        "forward": _named_forward(model_class),
        "__module__": model_class.__module__,
        "__qualname__": f"Steered{model_class.__qualname__}",
    }
    return type(model_class.__name__, (mixin, model_class), attributes)


def _named_forward(model_class: type[PreTrainedModel]) -> Callable[..., Any]:
    """A forward with the class's own signature, which generate() inspects (for logits_to_keep among others)."""
    names = list(inspect.signature(model_class.forward).parameters)[1:]

    @functools.wraps(model_class.forward)
    def forward(self: SteeredModel, *args: Any, **kwargs: Any) -> Any:
        return self._steered_forward({**dict(zip(names, args, strict=False)), **kwargs})

    return forward
