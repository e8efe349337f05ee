"""Reading a PEFT adapter's configuration, and attaching the adapter to a base."""

import json
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import cached_file

from svd_lightning.errors import InputError, explained
from svd_lightning.models.backbone import UNREADABLE, context_length, existing
from svd_lightning.models.switch import check_separable
from svd_lightning.records import ClassPath


def read_adapter_config(folder: str) -> PeftConfig:
    """Read the configuration of an adapter folder or hub adapter, made by any trainer.

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
    unreadable = (OSError, ValueError, KeyError, TypeError)
    with explained(unreadable, lambda reason: f"adapter: cannot read the adapter {folder!r}: {reason}"):
        config = PeftConfig.from_pretrained(source)
    if config.peft_type is None:
        raise InputError(f"adapter: cannot read the adapter {folder!r}: its configuration names no peft_type")
    return config


def adapter_template(folder: str) -> str | None:
    """Return the chat template that an adapter folder or hub adapter brings; None if it has none.

    Trainers write it to `chat_template.jinja`, or as text into `tokenizer_config.json`. Of several the one named
    "default" is taken.

    Raises:
        InputError: for a `tokenizer_config.json` that cannot be read.
    """
    source = existing(folder, "adapter")
    if (file := _file(source, "chat_template.jinja")) is not None:
        return file.read_text(encoding="utf-8")
    if (file := _file(source, "tokenizer_config.json")) is None:
        return None
    unreadable = (ValueError, AttributeError, KeyError, TypeError)
    with explained(
        unreadable, lambda reason: f"adapter: cannot read the chat template in {str(file)!r}: {reason}"
    ):
        template = json.loads(file.read_text(encoding="utf-8")).get("chat_template")
        if isinstance(template, list):
            template = {one["name"]: one["template"] for one in template}["default"]
    return None if template is None else str(template)


def _file(source: str, name: str) -> Path | None:
    """Return a file of a folder or hub repository; None if it has no such file."""
    try:
        found = cached_file(source, name)
    except OSError:
        return None
    return None if found is None else Path(found)


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
    unfit = (ValueError, TypeError)
    with explained(unfit, lambda reason: f"adapter: cannot attach {type(config).__name__}: {reason}"):
        return get_peft_model(base, config)


def attach_trained(base: PreTrainedModel, folder: str, *, base_name: str, trainable: bool) -> PeftModel:
    """Attach the adapter of a folder or of the hub to its base.

    Raises:
        InputError: as `check_separable`, or if the adapter was made for another base, or does not fit this one.
    """
    config = read_adapter_config(folder)
    check_separable(config, argument="adapter")
    check_base_name(config, base_name)
    with explained(UNREADABLE, lambda reason: f"adapter: cannot load the weights of {folder!r}: {reason}"):
        try:
            return PeftModel.from_pretrained(base, existing(folder, "adapter"), is_trainable=trainable)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].strip()  # the last line tells the shapes
            raise InputError(f"adapter: {folder!r} does not fit the base {base_name!r}: {reason}") from error


def check_base_name(config: PeftConfig, base_name: str) -> None:
    """Refuse an adapter that names another base; folders whose last parts agree count as the same.

    Raises:
        InputError: if the names differ.
    """
    named = config.base_model_name_or_path
    if named and Path(named).name != Path(base_name).name:
        raise InputError(
            f"adapter: it was trained on the base {named!r}, got the base {base_name!r}; "
            f"write --model.backbone.name_or_path {named}"
        )


def as_class_path(config: PeftConfig) -> ClassPath:
    """Return the configuration as plain data that jsonargparse reads back, without arguments of default value."""
    default = type(config)()
    left_out = ("peft_type", "base_model_name_or_path", "inference_mode", "auto_mapping")
    names = [field.name for field in fields(config) if field.init and field.name not in left_out]
    different = {
        name: _plain(getattr(config, name))
        for name in names
        if getattr(config, name) != getattr(default, name, None)
    }
    return {"class_path": f"peft.{type(config).__name__}", "init_args": different}


def _plain(value: Any) -> Any:
    """Reduce a value to JSON types; sets become sorted lists, enums their values."""

    def convert(other: Any) -> Any:
        if isinstance(other, Enum):
            return other.value
        return sorted(other) if isinstance(other, (set, frozenset)) else str(other)

    return json.loads(json.dumps(value, default=convert))
