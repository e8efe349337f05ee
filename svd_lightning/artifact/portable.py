"""`custom_generate`: steered decoding where only torch, transformers and peft are installed.

An export writes this module and the parts of svd_lightning that it needs into one file,
`custom_generate/generate.py` (`svd_lightning.artifact.bundle`), with the artefact's content at its end.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from peft import PeftModel
from transformers import PreTrainedModel

from svd_lightning.decoding.model import steer_model
from svd_lightning.errors import InputError
from svd_lightning.models.arithmetic import settle_arithmetic
from svd_lightning.models.digests import values_digest
from svd_lightning.models.identity import adapter_digest, fingerprint
from svd_lightning.models.switch import AdaptedModel, active_adapters, base_of, check_adapter
from svd_lightning.steering.by_task import RowSteering, TaskSteering
from svd_lightning.steering.saved import tasks_from_plain
from svd_lightning.steering.steering import Steering

CONTENT: dict[str, Any] = {}
"""`steering`, `tasks`, `base`, `arithmetic` and `adapter` of the artefact, as in its `steering_config.json`."""

_log = logging.getLogger(__name__)

_checked: WeakKeyDictionary[PreTrainedModel, str] = WeakKeyDictionary()


def generate(model: PreTrainedModel, *, task: str | Sequence[str | None] | None = None, **arguments: Any) -> Any:
    """Decode steered: `model.generate(..., custom_generate=FOLDER, trust_remote_code=True)` calls this.

    Args:
        model: the base with the artefact's adapter, from `peft.PeftModel.from_pretrained(base, FOLDER)`, or, where
            transformers can load the adapter, `AutoModelForCausalLM.from_pretrained(FOLDER)`.
        task: takes the strengths of one task, or of each row's task; None takes the shared ones.
        arguments: of transformers' `generate`: sampling, beams, streamers, stop strings.

    Raises:
        InputError: for a model without an adapter, another base or adapter, or a model that `steer_model` refuses.
    """
    adapted = carrier(model)
    check_adapter(adapted)
    name = active_adapters(adapted)[0]
    if _checked.get(model) != name:
        check_base(base_of(adapted), CONTENT["base"])
        check_weights(adapted, CONTENT["adapter"])
        settle_arithmetic(base_of(adapted), CONTENT["arithmetic"])
        _checked[model] = name
    return steer_model(adapted, steering_of(tasks_from_plain(CONTENT), task)).generate(**arguments)


def steering_of(steering: TaskSteering, task: str | Sequence[str | None] | None) -> Steering | RowSteering:
    """Return the steering of one task, or of each row's task in a batch."""
    if task is None or isinstance(task, str):
        return steering.of_task(task)
    return steering.of_batch({"task": task})


def carrier(model: PreTrainedModel) -> AdaptedModel:
    """Return the model with the adapter: this one, or the PeftModel that just called it for its virtual tokens."""
    owner = getattr(model.__dict__.get("prepare_inputs_for_generation"), "__self__", None)
    return owner if isinstance(owner, PeftModel) else model


def check_base(base: PreTrainedModel, stored: Mapping[str, Any]) -> None:
    """Refuse a base that is not the artefact's; only warn in float16, and of one that shares its embeddings alone.

    Raises:
        InputError: if the fingerprints differ.
    """
    found = fingerprint(base)
    if found == stored["fingerprint"]:
        if None not in (values := values_digest(base), known := stored.get("values")) and values != known:
            _log.warning(
                "base: %r has the embeddings of this artefact's base, %r, but other weights (an adapter merged "
                "into it?): its strengths were not calibrated there",
                base.config._name_or_path,
                stored["name"],
            )
        return
    difference = (
        f"base: this artefact steers {stored['name']!r} (fingerprint {stored['fingerprint'][:8]}), got "
        f"{base.config._name_or_path!r} ({found[:8]})"
    )
    if "torch.float16" in (stored["dtype"], str(base.dtype)):  # rounding changes the fingerprint there
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
