"""Which kind of steered model an adapter allows, decided by what its layers are."""

import functools
import logging
from dataclasses import dataclass
from typing import Any

from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from svd_lightning.decoding.one_pass import OnePassModel
from svd_lightning.decoding.paired_layers import PairedForward, paired_forward
from svd_lightning.decoding.steered import SteeredModel
from svd_lightning.decoding.two_pass import TwoPassModel
from svd_lightning.decoding.virtual_tokens import EmbeddingPromptModel, PrefixModel
from svd_lightning.errors import InputError
from svd_lightning.models.switch import AdaptedModel, active_config, adapter_layers

logger = logging.getLogger(__name__)

_PROMPT_MODELS: dict[type, type[SteeredModel]] = {
    PromptTuningConfig: EmbeddingPromptModel,
    PromptEncoderConfig: EmbeddingPromptModel,
    PrefixTuningConfig: PrefixModel,
}
"""Exact config type → steered model; a subclass may feed its virtual tokens otherwise."""


@dataclass(frozen=True)
class Plan:
    """How a PEFT model is decoded."""

    model_class: type[SteeredModel]
    """Mixin before the class of the base model."""
    attributes: dict[str, Any]
    """What that mixin needs to know."""


def decoding_plan(peft_model: AdaptedModel) -> Plan:
    """One pass where every adapter layer has a paired forward, else two.

    Raises:
        InputError: for prompt learning of an unknown kind, and for adapters that act on marked tokens only.
    """
    config = active_config(peft_model)
    if getattr(config, "alora_invocation_tokens", None):
        raise InputError(
            "peft_config.alora_invocation_tokens: an activated LoRA is switched on by tokens of the prompt, which "
            "steered decoding does not follow; train the adapter without them"
        )
    forwards, unpaired = _paired_forwards(peft_model)
    if config.is_prompt_learning:
        model_class = _PROMPT_MODELS.get(type(config))
        if model_class is None or unpaired:
            raise InputError(
                f"peft_config: expected prompt tuning, p-tuning or prefix tuning, got {type(config).__name__}; "
                "use one of those, or another adapter family"
            )
        virtual_tokens = config.num_virtual_tokens
        return Plan(model_class, {"_paired_forwards": forwards, "_virtual_tokens": virtual_tokens})
    if unpaired:
        _report_two_passes(unpaired)
        return Plan(TwoPassModel, {"_adapter_layers": adapter_layers(peft_model)})
    return Plan(OnePassModel, {"_paired_forwards": forwards, "_virtual_tokens": 0})


def _paired_forwards(peft_model: AdaptedModel) -> tuple[list[tuple[nn.Module, PairedForward]], str]:
    """Paired forwards of all adapter layers, and the first layer that has none ("" if all have)."""
    forwards = []
    for name, layer in peft_model.named_modules():
        if not isinstance(layer, BaseTunerLayer | AuxiliaryTrainingWrapper):
            continue
        forward = paired_forward(layer)
        # Tokens reach an expert by routing: its rows no longer fall into halves.
        if forward is None or ".experts." in name:
            return [], f"{type(layer).__module__}.{type(layer).__name__}"
        forwards.append((layer, forward))
    return forwards, ""


@functools.cache
def _report_two_passes(layer: str) -> None:
    logger.info("Steered decoding takes two passes per token: %s has no forward on paired rows", layer)
