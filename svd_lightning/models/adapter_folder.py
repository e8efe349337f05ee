"""The folder of a trained PEFT adapter: its configuration and its weights, read and checked."""

import json
import pickle
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import torch
from peft import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PeftConfig,
    PeftModel,
    get_peft_model_state_dict,
    load_peft_weights,
    set_peft_model_state_dict,
)
from peft import __version__ as peft_version
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from torch import Tensor
from transformers.utils import cached_file

from svd_lightning.errors import InputError, explained
from svd_lightning.models.backbone import UNREADABLE, existing

_SHOWN = 3
"""How many names of weights a message shows."""


def read_adapter_config(folder: str) -> PeftConfig:
    """Read the configuration of an adapter folder or hub adapter, made by any trainer.

    Raises:
        InputError: if it is not an adapter folder, or its `adapter_config.json` cannot be read.
    """
    source = existing(folder, "adapter")
    if Path(source).is_dir():
        _check_config_file(Path(source))
    unreadable = (OSError, ValueError, KeyError, TypeError, AttributeError)
    with explained(unreadable, lambda reason: f"adapter: cannot read the adapter {folder!r}: {reason}"):
        config = PeftConfig.from_pretrained(source)
    # save_pretrained wrote True; of virtual tokens it stores what the encoder gives, without the encoder
    config.inference_mode = config.is_prompt_learning
    return config


def read_weights(folder: str) -> dict[str, Tensor]:
    """Read the weights of an adapter folder or hub adapter onto the CPU, by name.

    Raises:
        InputError: if there are none, or the file is damaged.
    """
    source = existing(folder, "adapter")
    names = SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
    if Path(source).is_dir() and not any((Path(source) / name).is_file() for name in names):
        raise InputError(
            f"adapter: cannot load the weights of {folder!r}: expected {names[0]} or {names[1]}, got neither; "
            "give the folder that save_pretrained wrote"
        )
    damaged = (*UNREADABLE, pickle.UnpicklingError, EOFError, KeyError, AttributeError, TypeError)
    with explained(damaged, lambda reason: _damaged(folder, reason.partition(". ")[0])):
        weights = load_peft_weights(source, device="cpu")
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise InputError(_damaged(folder, f"expected tensors by name, got {type(weights).__name__}"))
    return weights


def load_weights(
    model: PeftModel, weights: dict[str, Tensor], base: Collection[int], *, folder: str, base_name: str
) -> None:
    """Load the weights of a trained adapter: all that it has, and none of the base.

    PEFT also stores the base's embeddings beside an adapter that is attached to them, or when told to; where they
    equal the base's own they are left out.

    Args:
        model: with a new adapter of the folder's configuration; changed.
        weights: as `read_weights` gives them.
        base: the `id`s of the base's parameters and buffers.
        folder, base_name: for messages.

    Raises:
        InputError: for weights that are missing, of another shape, or not the adapter's, and for weights of the
            base that differ from the base's own.
    """
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    of_base = {name: tensor for name, tensor in tensors if id(tensor) in base}
    changed = [name for name in weights.keys() & of_base.keys() if not _equal(weights[name], of_base[name])]
    if changed:
        raise InputError(
            f"adapter: {folder!r} also holds weights of the base that differ from those of {base_name!r}: "
            f"{_some(changed)}; without the adapter the model would not be the base. Save the base with these "
            "weights in a folder of its own and give that as backbone.name_or_path, or train them as part of the "
            "adapter (modules_to_save, trainable_token_indices)"
        )
    own = {name: weight for name, weight in weights.items() if name not in of_base}
    try:
        result = set_peft_model_state_dict(model, own)
    except KeyError as error:
        raise _unfit(folder, base_name, f"it lacks the weights {error.args[0]}") from error
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1].strip()  # the last line tells the shapes
        raise _unfit(folder, base_name, reason) from error
    state = model.state_dict()
    stored = get_peft_model_state_dict(model, state_dict=state, save_embedding_layers=False)
    loaded = {id(state[name]) for name in state.keys() - set(result.missing_keys)}
    if missing := [name for name, tensor in stored.items() if id(tensor) not in loaded and name not in own]:
        raise _unfit(folder, base_name, f"it lacks the weights {_some(missing)}")
    if unknown := set(result.unexpected_keys) - stored.keys():
        raise _unfit(folder, base_name, f"it holds weights that its configuration does not name: {_some(unknown)}")


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


def _check_config_file(folder: Path) -> None:
    """Raise InputError unless a folder's adapter_config.json holds an object that names an adapter PEFT knows."""
    path = folder / CONFIG_NAME
    if not path.is_file():
        inner = sorted(str(each.parent) for each in folder.glob(f"*/{CONFIG_NAME}"))
        remedy = f"one of its adapters: {', '.join(inner)}" if inner else "the folder that save_pretrained wrote"
        raise InputError(
            f"adapter: expected a PEFT adapter folder, got {str(folder)!r}, which has no {CONFIG_NAME}; "
            f"give {remedy}"
        )
    with explained((OSError, ValueError), lambda reason: _unreadable(folder, reason)):
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise InputError(_unreadable(folder, f"expected a JSON object, got {type(content).__name__}"))
    if (kind := content.get("peft_type")) not in [*PEFT_TYPE_TO_CONFIG_MAPPING]:
        known = f"expected a peft_type that PEFT {peft_version} knows, got {kind!r}"
        raise InputError(_unreadable(folder, f"{known}; a newer PEFT may know it"))


def _unreadable(folder: Path, problem: str) -> str:
    return f"adapter: cannot read the adapter {str(folder)!r}: {CONFIG_NAME}: {problem}"


def _damaged(folder: str, problem: str) -> str:
    return f"adapter: cannot load the weights of {folder!r}: {problem}; copy the whole file again"


def _unfit(folder: str, base_name: str, problem: str) -> InputError:
    return InputError(
        f"adapter: {folder!r} does not fit the base {base_name!r}: {problem}; give the base it was trained on, "
        "and the folder as save_pretrained wrote it"
    )


def _equal(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are the same, rounded to the narrower of their number formats."""
    narrow = min(one.dtype, other.dtype, key=lambda dtype: dtype.itemsize)
    return one.shape == other.shape and torch.equal(one.to(narrow), other.to(narrow).cpu())


def _some(names: Iterable[str]) -> str:
    shown = sorted(names)
    rest = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + rest
