"""`custom_generate`: steered decoding where only torch, transformers and peft are installed.

At export this module and the parts of svd_lightning that it needs become one file, `custom_generate/generate.py`
(`svd_lightning.artifact.bundle`), with the artefact's own content at its end.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from peft import PeftModel
from transformers import PreTrainedModel

from svd_lightning.decoding.model import steer_model
from svd_lightning.errors import InputError
from svd_lightning.models.identity import adapter_digest, fingerprint
from svd_lightning.models.switch import AdaptedModel, active_adapters, base_of, check_adapter
from svd_lightning.steering.by_task import RowSteering, TaskSteering
from svd_lightning.steering.saved import tasks_from_plain
from svd_lightning.steering.steering import Steering

CONTENT: dict[str, Any] = {}
"""`steering`, `tasks`, `base` and `adapter` of the artefact, as in its `steering_config.json`."""

_log = logging.getLogger(__name__)

_checked: WeakKeyDictionary[PreTrainedModel, str] = WeakKeyDictionary()


def generate(model: PreTrainedModel, *, task: str | Sequence[str | None] | None = None, **arguments: Any) -> Any:
    """What `model.generate(..., custom_generate=FOLDER, trust_remote_code=True)` runs: the same call, steered.

    Args:
        model: the base with the artefact's adapter on it, by `peft.PeftModel.from_pretrained(base, FOLDER)`, or,
            where transformers can load the adapter, `AutoModelForCausalLM.from_pretrained(FOLDER)`.
        task: for an adapter of several tasks, that of all rows or of each; None for the strengths that all share.
        arguments: those of transformers' `generate`, as they came: sampling, beams, streamers, stop strings.

    Raises:
        InputError: for a model without an adapter, another base, another adapter, or what `steer_model` refuses.
    """
    adapted = carrier(model)
    check_adapter(adapted)
    name = active_adapters(adapted)[0]
    if _checked.get(model) != name:
        check_base(base_of(adapted), CONTENT["base"])
        check_weights(adapted, CONTENT["adapter"])
        _checked[model] = name
    return steer_model(adapted, steering_of(tasks_from_plain(CONTENT), task)).generate(**arguments)


def steering_of(steering: TaskSteering, task: str | Sequence[str | None] | None) -> Steering | RowSteering:
    """The steering of one task, or of a batch's rows by theirs."""
    if task is None or isinstance(task, str):
        return steering.of_task(task)
    return steering.of_batch({"task": task})


def carrier(model: PreTrainedModel) -> AdaptedModel:
    """What carries the adapter: the model, or the PeftModel that has just called it for its virtual tokens."""
    owner = getattr(model.__dict__.get("prepare_inputs_for_generation"), "__self__", None)
    return owner if isinstance(owner, PeftModel) else model


def check_base(base: PreTrainedModel, stored: Mapping[str, Any]) -> None:
    """Refuse a base that is not the artefact's; where one of the two is in float16, only warn.

    Raises:
        InputError: if the fingerprints differ.
    """
    found = fingerprint(base)
    if found == stored["fingerprint"]:
        return
    difference = (
        f"base: this artefact steers {stored['name']!r} (fingerprint {stored['fingerprint'][:8]}), got "
        f"{base.config._name_or_path!r} ({found[:8]})"
    )
    if "torch.float16" in (stored["dtype"], str(base.dtype)):  # the same weights are rounded otherwise there
        _log.warning("%s; in float16 the two cannot be told apart: make sure that it is the same", difference)
        return
    raise InputError(f"{difference}; its strengths mean nothing there; load the first")


def check_weights(adapted: AdaptedModel, stored: str | None) -> None:
    """Refuse an adapter that is not the artefact's, or that was not loaded whole.

    Raises:
        InputError: if the digests differ.
    """
    found = adapter_digest(adapted)
    if None not in (found, stored) and found != stored:
        raise InputError(
            "adapter: the model's adapter is not this artefact's, or was not loaded whole (transformers' own "
            "loader leaves out DoRA's magnitudes); load it with peft.PeftModel.from_pretrained(base, FOLDER)"
        )
