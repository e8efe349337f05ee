"""From a PEFT model to a steered one over the same weights, and the class that its adapter allows."""

import copy
import functools
import inspect
import logging
from typing import Any, NamedTuple

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from transformers import PreTrainedModel

from svd_lightning.decoding.caches import check_caches
from svd_lightning.decoding.head_inputs import HeadInputs
from svd_lightning.decoding.one_pass import OnePassModel
from svd_lightning.decoding.paired_layers import PairedForward, paired_forward
from svd_lightning.decoding.plain import PlainModel
from svd_lightning.decoding.steered import SteeredModel
from svd_lightning.decoding.two_pass import TwoPassModel
from svd_lightning.decoding.virtual_tokens import PROMPT_MODELS, PromptModel
from svd_lightning.errors import InputError
from svd_lightning.models.arithmetic import widen_head
from svd_lightning.models.scale import check_scalable, layers_scaled
from svd_lightning.models.switch import (
    AdaptedModel,
    active_adapters,
    active_config,
    adapter_layers,
    base_of,
    check_adapter,
    shallow_copy,
)
from svd_lightning.steering import SteeringFunction, adapter_scale, reads_base, reads_states

logger = logging.getLogger(__name__)

_OWN_STATE = (
    "generate",
    "prepare_inputs_for_generation",
    "_compiled_call",
    "_last_compile_config",
    "_previous_max_cache_length",
)
"""Attributes that PEFT, transformers and generate() leave on an instance, for that instance only."""


def steer_model(peft_model: AdaptedModel, steering: SteeringFunction) -> Any:
    """Return a causal LM whose logits are steering(tuned logits, base logits), with the full `generate()` API.

    It shares every weight and hook of the PEFT model, adds no parameter and follows later changes of the weights.
    It changes the PEFT model only inside its own forward, so any number of steered models can share one; but from
    now on the head computes in float32 (`widen_head`). LoRA, IA3 and prompt learning decode both distributions in
    one pass of 2B rows; other adapters take two. A steering that does not read the base (`reads_base`) takes the
    tuned model's own pass; one with an `adapter_scale` runs the tuned model at that scale. Do not store it as an
    attribute of another `nn.Module`, which would register the weights twice.

    Args:
        peft_model: a PEFT model around a decoder-only causal LM, or such a model that transformers has loaded
            together with an adapter; in evaluation mode.
        steering: maps (tuned logits, base logits), each [B, K, V], to steered logits; usually a `Steering`.
            `lambda tuned, base: base` decodes the base model.

    Returns:
        An instance of a subclass of the base model's class; its `past_key_values` hold both models' states.

    Raises:
        InputError: for adapters whose base distribution cannot be recovered (`check_adapter`), now or at a
            later call; for models whose past cannot be kept for both (`check_caches`); for prompt learning without
            a cache; for an `adapter_scale` and an adapter that has none; for logits that hold NaN or +∞.

    Source: Hu et al. (2025), arXiv 2509.15888, Algorithm 2.
    """
    check_adapter(peft_model)
    base_model = base_of(peft_model)
    mixin, attributes = steered_class(peft_model)
    if not reads_base(steering) and not issubclass(mixin, PromptModel):
        mixin, attributes = PlainModel, {}
    check_caches(base_model, two_passes=mixin is TwoPassModel)
    widen_head(base_model, copy_weights=False)
    keeps = HeadInputs(base_model.get_output_embeddings()) if reads_states(steering) else None
    around, active = None if keeps is None else keeps.kept, active_adapters(peft_model)[0]
    if (scale := adapter_scale(steering)) != 1.0:
        check_scalable(peft_model)
        around = functools.partial(layers_scaled, adapter_layers(peft_model), active, scale)
    model = shallow_copy(base_model, _mixed_class(type(base_model), mixin))  # type: ignore[arg-type]
    for name in _OWN_STATE:
        model.__dict__.pop(name, None)
    model.__dict__.update(
        attributes,
        generation_config=copy.deepcopy(base_model.generation_config),
        _peft_model=peft_model,
        _base_model=base_model,
        _steering=steering,
        _head_inputs=keeps,
        _around=around,
        _adapter=active,
    )
    return model


class SteeredClass(NamedTuple):
    """The class that decodes a PEFT model, and what its instances need."""

    model_class: type[SteeredModel]
    """A mixin before the class of the base model."""
    attributes: dict[str, Any]


def steered_class(peft_model: AdaptedModel) -> SteeredClass:
    """Choose one pass if every adapter layer has a paired forward, else two.

    Raises:
        InputError: for prompt learning of an unknown kind.
    """
    config = active_config(peft_model)
    forwards, unpaired = _paired_forwards(peft_model)
    if config.is_prompt_learning:
        model_class: type[SteeredModel] | None = PROMPT_MODELS.get(type(config))
        if model_class is None or unpaired:
            raise InputError(
                f"peft_config: expected prompt tuning, p-tuning or prefix tuning, got {type(config).__name__}; "
                "use one of those, or another adapter family"
            )
        virtual_tokens = config.num_virtual_tokens
        return SteeredClass(model_class, {"_paired_forwards": forwards, "_virtual_tokens": virtual_tokens})
    if unpaired:
        _report_two_passes(unpaired)
        return SteeredClass(TwoPassModel, {"_adapter_layers": adapter_layers(peft_model)})
    return SteeredClass(OnePassModel, {"_paired_forwards": forwards, "_virtual_tokens": 0})


def _paired_forwards(peft_model: AdaptedModel) -> tuple[list[tuple[nn.Module, PairedForward]], str]:
    """Return the paired forwards of all adapter layers, and the first layer that has none ("" if all have)."""
    forwards = []
    for name, layer in peft_model.named_modules():
        if not isinstance(layer, BaseTunerLayer | AuxiliaryTrainingWrapper):
            continue
        forward = paired_forward(layer)
        # Routing decides which tokens reach an expert, so its rows no longer fall into halves.
        if forward is None or ".experts." in name:
            return [], f"{type(layer).__module__}.{type(layer).__name__}"
        forwards.append((layer, forward))
    return forwards, ""


@functools.cache
def _report_two_passes(layer: str) -> None:
    logger.info("Steered decoding takes two passes per token: %s has no forward on paired rows", layer)


@functools.cache
def _mixed_class(model_class: type[PreTrainedModel], mixin: type[SteeredModel]) -> type:
    """Make the model's class with the mixin before it, under the class's own name, which pipelines look up.

    Its forward has the class's own signature, which generate() inspects (for logits_to_keep among others).
    """
    names = list(inspect.signature(model_class.forward).parameters)[1:]

    @functools.wraps(model_class.forward)
    def forward(self: SteeredModel, *args: Any, **kwargs: Any) -> Any:
        return self._steered_forward({**dict(zip(names, args, strict=False)), **kwargs})

    name, module = f"Steered{model_class.__qualname__}", model_class.__module__
    attributes = {"forward": forward, "__module__": module, "__qualname__": name}
    return type(model_class.__name__, (mixin, model_class), attributes)
