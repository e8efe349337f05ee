"""The adapter of a model: which one is active, whether it can be switched off, and how to do so."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

from peft import PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from transformers import PreTrainedModel

from svd_lightning.errors import InputError

AdaptedModel: TypeAlias = PeftModel | PreTrainedModel
"""A PEFT model, or a model that transformers' own `load_adapter` has given an adapter."""

ModuleT = TypeVar("ModuleT", bound=nn.Module)

_REWRITES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""LoRA initialisations that move part of the base weights into the adapter: off is then not the base."""

_NO_BASE_BESIDE = ("ADAPTION_PROMPT", "CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING", "POLY", "SHADOW", "XLORA")
"""PEFT types that read more than the tokens, change the model's states, or have no switch in every layer."""


def adapter_layers(model: AdaptedModel) -> list[nn.Module]:
    """Return the modules that carry the adapter and can be switched off; none for prompt learning alone."""
    return [m for m in model.modules() if isinstance(m, BaseTunerLayer | AuxiliaryTrainingWrapper)]


def base_of(model: AdaptedModel) -> PreTrainedModel:
    """Return the causal LM that carries the adapter."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def active_adapters(model: AdaptedModel) -> list[str]:
    """Return the names of the adapters in use; an empty list for a model without one."""
    if isinstance(model, PeftModel):
        return list(model.active_adapters)
    layers: list[Any] = adapter_layers(model)
    return list(layers[0].active_adapters) if layers else []


def active_config(model: AdaptedModel) -> PeftConfig:
    """Return the configuration of the adapter in use."""
    return model.peft_config[active_adapters(model)[0]]


def check_adapter(peft_model: AdaptedModel) -> None:
    """Raise InputError unless switching the adapter off gives the base model.

    Raises:
        InputError: in training mode; for none or several active adapters; for trained biases; for merged or
            switched-off adapters; for initialisations that rewrite the base; for adapters without an off switch.
    """
    layers = adapter_layers(peft_model)
    if not layers and not isinstance(peft_model, PeftModel):
        raise InputError(
            f"peft_model: expected a peft.PeftModel, got {type(peft_model).__name__}; wrap the base model with "
            "peft.get_peft_model or PeftModel.from_pretrained, or call its load_adapter"
        )
    if peft_model.training:
        raise InputError("peft_model: expected evaluation mode, got training mode; call .eval() first")
    active = active_adapters(peft_model)
    if len(active) != 1:
        raise InputError(
            f"peft_model: expected one active adapter, got {active}; select one with .set_adapter(name)"
        )
    config = active_config(peft_model)
    check_separable(config, argument="peft_config")
    if any(getattr(layer, "merged", False) for layer in layers):
        raise InputError(
            "peft_model: expected an adapter beside the base weights, got a merged one; call .unmerge_adapter()"
        )
    if getattr(peft_model, "_adapters_disabled", False) or any(layer.disable_adapters for layer in layers):
        raise InputError(
            "peft_model: expected the adapter switched on, got it switched off; leave disable_adapter() first"
        )
    if not layers and not config.is_prompt_learning:
        raise InputError(
            f"peft_model: expected an adapter that can be switched off layer by layer, got "
            f"{type(config).__name__}; use LoRA, IA3 or prompt learning"
        )


def check_separable(config: PeftConfig, *, argument: str) -> None:
    """Raise InputError, which names the argument, for an adapter from which the base cannot be had at every token.

    Such an adapter changes weights or layers of the base itself, or is of a kind that has no switch.
    """
    if config.peft_type in _NO_BASE_BESIDE:
        raise InputError(
            f"{argument}: expected an adapter that can be switched off layer by layer, or prompt tuning, p-tuning "
            f"or prefix tuning, got {type(config).__name__}; use LoRA, IA3 or one of those"
        )
    if getattr(config, "alora_invocation_tokens", None):
        raise InputError(
            f"{argument}.alora_invocation_tokens: an activated LoRA is switched on by tokens of the prompt, which "
            "steered decoding does not support; train the adapter without them"
        )
    if getattr(config, "layer_replication", None):
        raise InputError(
            f"{argument}.layer_replication: it repeats layers of the base, so switching the adapter off does not "
            "restore the base; train an adapter without it"
        )
    if (bias := getattr(config, "bias", "none")) != "none":
        raise InputError(
            f"{argument}.bias: expected 'none', got {bias!r}: it trains the base model's biases, so switching the "
            "adapter off does not restore the base; train an adapter with bias='none'"
        )
    init = getattr(config, "init_lora_weights", None)
    if isinstance(init, str) and init.lower().startswith(_REWRITES_BASE):
        raise InputError(
            f"{argument}.init_lora_weights: {init!r} rewrites the base weights, so switching the adapter off "
            "does not restore the base; train with the default initialisation, or convert a trained adapter to "
            "plain LoRA (peft's save_pretrained with path_initial_model_for_weight_conversion)"
        )


@contextmanager
def adapter_off(peft_model: PeftModel) -> Iterator[PreTrainedModel]:
    """Yield the causal LM as the base model, the adapter switched off; afterwards the adapter is as it was.

    Flips the flag that every adapter layer reads: unlike `PeftModel.disable_adapter` it costs no scan for
    the adapter's status and leaves `requires_grad` alone, which sharded parameters do not like to change.

    Raises:
        InputError: as `check_adapter`.
    """
    check_adapter(peft_model)
    with layers_off(adapter_layers(peft_model)):
        yield peft_model.get_base_model()


@contextmanager
def layers_off(layers: list[nn.Module]) -> Iterator[None]:
    """Make the given adapter layers, within it, do what the base's layers do."""
    before = [layer._disable_adapters for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = True  # type: ignore[assignment]
        assert all(layer.disable_adapters for layer in layers), "an adapter layer ignores its off switch"
        yield
    finally:
        for layer, was_off in zip(layers, before, strict=True):
            layer._disable_adapters = was_off


def shallow_copy(module: ModuleT, cls: type[ModuleT] | None = None) -> ModuleT:
    """Copy a module, but not its children, parameters and hooks; attributes of the copy can be replaced.

    `copy.copy` would share the dictionary of children, and under FSDP2 it constructs a new module.
    """
    clone = object.__new__(cls or type(module))
    clone.__dict__.update(module.__dict__)
    clone._modules = dict(module._modules)
    clone.__dict__.pop("forward", None)  # accelerate binds a forward to the original
    return clone
