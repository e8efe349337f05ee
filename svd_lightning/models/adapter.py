"""Attaching a PEFT adapter to a base, and recognising the adapters that cannot be steered."""

import json
from enum import Enum
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from svd_lightning.errors import InputError
from svd_lightning.models.backbone import UNREADABLE, existing, first_line


def read_adapter_config(folder: str) -> PeftConfig:
    """The configuration of an adapter folder or hub adapter, made by any trainer.

    Raises:
        InputError: if it is not an adapter folder, or its `adapter_config.json` cannot be read.
    """
    source = existing(folder, "adapter")
    path = Path(source)
    if path.is_dir() and not (path / "adapter_config.json").is_file():
        raise InputError(
            f"adapter: expected a PEFT adapter folder, got {folder!r}, which has no adapter_config.json; "
            "give the folder that save_pretrained wrote"
        )
    try:
        config = PeftConfig.from_pretrained(source)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"adapter: cannot read the adapter {folder!r}: {first_line(error)}") from error
    if config.peft_type is None:
        raise InputError(f"adapter: cannot read the adapter {folder!r}: its configuration names no peft_type")
    return config


def adapter_config(adapter: PeftConfig | str | None) -> PeftConfig:
    """The configuration itself, or that of a folder.

    Raises:
        InputError: if there is none, or as `read_adapter_config`.
    """
    if adapter is None:
        raise InputError(
            "model.adapter: expected a PEFT configuration or an adapter folder, got nothing; "
            "add --model.adapter configs/adapter/lora.yaml"
        )
    return read_adapter_config(adapter) if isinstance(adapter, str) else adapter


def attach_new(base: PreTrainedModel, config: PeftConfig) -> PeftModel:
    """A fresh adapter of the given configuration on the base.

    Raises:
        InputError: for an adapter that trains biases, whose base cannot be recovered by switching it off,
            or one that does not fit the base (target modules that do not exist, say).
    """
    check_steerable(config)
    config.task_type = "CAUSAL_LM"
    try:
        return get_peft_model(base, config)
    except (ValueError, TypeError) as error:
        raise InputError(f"adapter: cannot attach {type(config).__name__}: {first_line(error)}") from error


def attach_trained(base: PreTrainedModel, folder: str, *, base_name: str, trainable: bool) -> PeftModel:
    """The adapter of a folder (or of the hub) on its base.

    Raises:
        InputError: if the adapter was made for another base, or does not fit this one.
    """
    config = read_adapter_config(folder)
    check_steerable(config)
    check_base_name(config, base_name)
    try:
        return PeftModel.from_pretrained(base, existing(folder, "adapter"), is_trainable=trainable)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"adapter: {folder!r} does not fit the base {base_name!r}: {reason}") from error
    except UNREADABLE as error:
        raise InputError(f"adapter: cannot load the weights of {folder!r}: {first_line(error)}") from error


def check_steerable(config: PeftConfig) -> None:
    """Refuse adapters whose base distribution cannot be recovered.

    Raises:
        InputError: for trained biases.
    """
    if getattr(config, "bias", "none") != "none":
        raise InputError(
            f"adapter.bias: expected 'none', got {config.bias!r}; switching such an adapter off does not restore "
            "the base, so there is no reference distribution"
        )


def check_base_name(config: PeftConfig, base_name: str) -> None:
    """Refuse an adapter that names another base; folders count as the same when their last parts agree.

    Raises:
        InputError: if the names differ.
    """
    named = config.base_model_name_or_path
    if named and Path(named).name != Path(base_name).name:
        raise InputError(
            f"adapter: it was trained on the base {named!r}, got the base {base_name!r}; "
            f"write --model.backbone.name_or_path {named}"
        )


def as_class_path(config: PeftConfig) -> dict[str, Any]:
    """The configuration as plain data that jsonargparse reads back: class_path and non-default init_args."""
    default = type(config)()
    different = {
        name: _plain(value)
        for name, value in vars(config).items()
        if name in type(config).__dataclass_fields__
        and type(config).__dataclass_fields__[name].init
        and name not in ("peft_type", "base_model_name_or_path", "inference_mode", "auto_mapping")
        and value != getattr(default, name, None)
    }
    return {"class_path": f"peft.{type(config).__name__}", "init_args": different}


def _plain(value: Any) -> Any:
    """JSON types only; sets become sorted lists, enums their values."""

    def convert(other: Any) -> Any:
        if isinstance(other, Enum):
            return other.value
        return sorted(other) if isinstance(other, (set, frozenset)) else str(other)

    return json.loads(json.dumps(value, default=convert))
