"""Reading a PEFT adapter's configuration, and attaching the adapter to a base."""

import json
from contextlib import AbstractContextManager
from dataclasses import MISSING, Field, asdict, fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from peft import AdaLoraModel, PeftConfig, PeftModel, PeftModelForCausalLM, get_peft_model
from transformers import PretrainedConfig, PreTrainedModel
from typing_extensions import TypedDict

from svd_lightning.errors import InputError, explained
from svd_lightning.models.adapter_folder import load_weights, read_adapter_config, read_weights
from svd_lightning.models.backbone import Backbone, context_length, existing
from svd_lightning.models.switch import check_separable


class ClassPath(TypedDict):
    """An object as configurations and checkpoints write it: its class, and the arguments that are not defaults."""

    class_path: str
    init_args: dict[str, Any]


def adapter_config(adapter: PeftConfig | str | None) -> PeftConfig:
    """Return the given configuration, or that of the given folder.

    Raises:
        InputError: without a configuration, as `read_adapter_config`, or as `check_separable`.
    """
    if adapter is None:
        raise InputError(
            "model.adapter: expected a PEFT configuration or an adapter folder, got nothing; "
            "add --model.adapter configs/adapter/lora.yaml"
        )
    config = read_adapter_config(adapter) if isinstance(adapter, str) else adapter
    check_separable(config, argument="adapter")
    return config


def check_trainable(config: PeftConfig) -> None:
    """Raise InputError for an adapter that needs more than gradients to be trained."""
    if config.peft_type == "ADALORA":
        raise InputError(
            "adapter: AdaLoraConfig gives every layer its rank during training, which `fit` does not do; train it "
            "with PEFT and give its folder to `calibrate`, or use LoRA"
        )


def text_limits(base: PretrainedConfig, adapter: PeftConfig) -> tuple[int | None, int | None]:
    """Return how many positions the adapter's virtual tokens leave for text, and how many tokens the base embeds.

    None for what the base's configuration does not say.
    """
    context, virtual = context_length(base), getattr(adapter, "num_virtual_tokens", None) or 0
    room = None if context is None else context - virtual
    return room, getattr(base.get_text_config(), "vocab_size", None)


def attach_new(base: PreTrainedModel, config: PeftConfig) -> PeftModel:
    """Attach a new adapter of the given configuration to the base.

    Raises:
        InputError: as `check_separable`, or for an adapter that does not fit the base (target modules that do
            not exist, say).
    """
    check_separable(config, argument="adapter")
    config.task_type = "CAUSAL_LM"
    with _attaching(config, f"see the options of peft.{type(config).__name__}"):
        model = get_peft_model(base, config)
        if isinstance(model.base_model, AdaLoraModel) and config.rank_pattern is not None:  # trained elsewhere
            model.base_model.resize_modules_by_rank_pattern(config.rank_pattern, model.active_adapter)
        return model


def attach_trained(base: PreTrainedModel, folder: str, *, base_name: str, trainable: bool) -> PeftModel:
    """Attach the adapter of a folder or of the hub to its base.

    Of prompt learning the virtual tokens themselves are trained further, not the encoder that made them: PEFT does
    not store it.

    Raises:
        InputError: as `check_separable`, or if the adapter was made for another base, or does not fit this one.
    """
    config = read_adapter_config(folder)
    check_separable(config, argument="adapter")
    check_base_name(config, base_name)
    weights = read_weights(folder)
    of_base = {id(tensor) for tensor in (*base.parameters(), *base.buffers())}
    config.inference_mode |= not trainable
    with _attaching(config, "give the base it was trained on"):
        model = PeftModelForCausalLM(base, config)
    load_weights(model, weights, of_base, folder=folder, base_name=base_name)
    return model if trainable else model.requires_grad_(False).eval()


def _attaching(config: PeftConfig, remedy: str) -> AbstractContextManager[None]:
    def message(reason: str) -> str:
        return f"adapter: cannot attach {type(config).__name__}: {reason.rstrip('.')}; {remedy}"

    return explained((ValueError, TypeError), message)


def base_of_adapter(backbone: Backbone, config: PeftConfig) -> Backbone:
    """Return the backbone under a trained adapter: the given one, or else the base that its configuration names.

    Raises:
        InputError: if the given one is another base.
    """
    if backbone.name_or_path is not None:
        check_base_name(config, backbone.copy_of or backbone.source)
        return backbone
    named = config.base_model_name_or_path or None
    if named is not None:
        try:
            existing(named, "adapter: base_model_name_or_path")
        except InputError as error:
            raise InputError(f"{error}; write --model.backbone.name_or_path FOLDER") from error
    return replace(backbone, name_or_path=named, revision=backbone.revision or config.revision)


def check_base_name(config: PeftConfig, base_name: str) -> None:
    """Refuse an adapter that names another base; folders whose last parts agree count as the same.

    Raises:
        InputError: if the names differ.
    """
    named = config.base_model_name_or_path
    if named and Path(named).name != Path(base_name).name:
        raise InputError(
            f"adapter: it was trained on the base {named!r}, got the base {base_name!r}; write "
            f"--model.backbone.name_or_path {named}, or --model.backbone.copy_of {named} if yours is a copy of it "
            "under another name, or quantised"
        )


def as_class_path(config: PeftConfig) -> ClassPath:
    """Return the configuration as plain data that jsonargparse reads back, without arguments of default value."""
    left_out = {"peft_type", "base_model_name_or_path", "inference_mode", "auto_mapping", "peft_version"}
    if config.is_prompt_learning:
        left_out.remove("inference_mode")  # without the encoder, the virtual tokens have other weights
    kept = [field for field in fields(config) if field.init and field.name not in left_out]
    different = {
        field.name: _plain(value) for field in kept if (value := getattr(config, field.name)) != _default(field)
    }
    return {"class_path": f"peft.{type(config).__name__}", "init_args": different}


def _default(field: Field) -> Any:
    """Return a field's default; some configurations cannot be made from their defaults alone."""
    if field.default_factory is not MISSING:
        return field.default_factory()
    return None if field.default is MISSING else field.default


def _plain(value: Any) -> Any:
    """Reduce a value to JSON types; sets become sorted lists, enums their values."""

    def convert(other: Any) -> Any:
        if isinstance(other, Enum):
            return other.value
        if is_dataclass(other) and not isinstance(other, type):
            return asdict(other)
        return sorted(other) if isinstance(other, (set, frozenset)) else str(other)

    return json.loads(json.dumps(value, default=convert))
