"""What a checkpoint holds besides weights, and what it must agree with before they are used."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from torch import Tensor

from svd_lightning.data import CompletionDataModule
from svd_lightning.errors import InputError
from svd_lightning.models.adapter import ClassPath, as_class_path
from svd_lightning.records import CalibrationRecord
from svd_lightning.steering import Steering, as_plain, feature_name, rule_name, with_short_paths

_log = logging.getLogger(__name__)
CALIBRATED = "calibrated.ckpt"
"""Among the checkpoints of a run of `calibrate`: the adapter with the strengths found."""
TRAINED = "trained.ckpt"
"""Among the checkpoints of a run of `fit` that broke off after an epoch's last step: the adapter as trained."""
STOPPED = "stopped.ckpt"
"""Among the checkpoints of a run of `fit` that a signal has stopped: all that training goes on with."""
_UNSEEN = (
    *("alpha", "alpha_pattern", "lora_alpha", "psoft_alpha", "randlora_alpha", "scaling", "use_rslora"),
    *("generator_seed", "proj_seed", "projection_prng_key", "projection_seed", "random_loc_seed", "random_seed"),
    *("act_fn", "apply_GS", "coft", "eps", "mask_type", "num_cayley_neumann_terms", "sparse", "topk"),
    *("token_indices", "trainable_token_indices"),
    *("use_cayley_neumann", "use_idwt", "very_sparse", "wavelet_family"),
)
"""Options of adapters that change what they compute, but neither names nor shapes of their weights."""


def hyperparameters(
    backbone: dict[str, Any],
    adapter: PeftConfig,
    steering: Steering,
    warmup_ratio: float,
    gradient_checkpointing: bool,
    generation: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the module's arguments as plain data that `load_from_checkpoint` parses back.

    Plain because checkpoints are read with `weights_only=True`. The optimizer is left out: only training uses
    it, and a resumed run takes it from its own configuration.
    """
    return {
        "backbone": backbone,
        "adapter": as_class_path(adapter),
        "steering": as_plain(steering),
        "warmup_ratio": warmup_ratio,
        "gradient_checkpointing": gradient_checkpointing,
        "generation": None if generation is None else dict(generation),
        "_instantiator": "lightning.pytorch.cli.instantiate_module",
    }


def stored_steering(path: Path) -> dict[str, Any]:
    """Read the steering that a checkpoint's module was given, as plain data with today's class paths.

    Give it to `load_from_checkpoint` as `steering`: the class paths in the checkpoint may be gone.
    """
    content = torch.load(path, map_location="cpu", weights_only=True)
    return with_short_paths(content.get("hyper_parameters", {}).get("steering") or as_plain(Steering()))


def check_origin(
    checkpoint: Mapping[str, Any],
    base: Mapping[str, str | None],
    adapter: ClassPath,
    trained: Mapping[str, torch.Size],
    data: CompletionDataModule | None,
) -> None:
    """Raise InputError if a checkpoint is of another base or adapter, or was trained on other datasets.

    Args:
        checkpoint: its content.
        base: the one in use, as the checkpoint names its own.
        adapter: the adapter's configuration.
        trained: names and shapes of the adapter's weights.
        data: what the adapter is used on; with `transfer`, it may be another dataset.
    """
    check_base(checkpoint.get("base"), base)
    stored: ClassPath = checkpoint.get("hyper_parameters", {}).get("adapter", adapter)
    options = [each for each in _UNSEEN if stored["init_args"].get(each) != adapter["init_args"].get(each)]
    if problem := _difference(checkpoint["state_dict"], trained) or ", ".join(options):
        raise InputError(
            f"ckpt_path: its adapter is {_written(stored)}, got {_written(adapter)}, which differs: {problem}; "
            "use the adapter configuration of the run that wrote it"
        )
    known, asked = checkpoint.get("datasets", []), set() if data is None else data.dataset_names()
    if known and not (asked <= set(known) or data is None or data.transfer):
        raise InputError(
            f"ckpt_path: its adapter was trained on {', '.join(known)}, got the data {', '.join(sorted(asked))}; "
            "give a checkpoint of this task, or write --data.transfer true to see how that one transfers"
        )


def check_base(stored: Mapping[str, str | None] | None, base: Mapping[str, str | None]) -> None:
    """Raise InputError unless the stored base is the one in use; warn of another tokenizer.

    Args:
        stored, base: name, fingerprint, and digests of `values` and `tokenizer`; a checkpoint from before digests
            has none, and None is not compared.
    """
    if stored is None:
        raise InputError("ckpt_path: it holds no base fingerprint; expected a checkpoint of SteeredLanguageModel")
    found = {name: base[name] or "" for name in ("fingerprint", "values", "tokenizer")}
    differs = [name for name in found if stored.get(name) and found[name] and stored[name] != found[name]]
    if wrong := [name for name in differs if name != "tokenizer"]:
        known = str(stored[wrong[0]])
        raise InputError(
            f"ckpt_path: its adapter was trained on the base {stored['name']!r} ({wrong[0]} {known[:8]}), got "
            f"{base['name']!r} ({found[wrong[0]][:8]}); give the base it was trained on"
        )
    if differs:
        _log.warning(
            "the checkpoint's adapter was trained with another tokenizer (vocabulary, special tokens or chat "
            "template): texts become other tokens than it has learned; give backbone.tokenizer and "
            "backbone.chat_template of its run"
        )


def check_resumable(checkpoint: Mapping[str, Any]) -> None:
    """Raise InputError if a checkpoint has no optimizer state, without which training cannot go on."""
    if "optimizer_states" not in checkpoint:
        raise InputError(
            "ckpt_path: expected a checkpoint of `fit` to resume from, got one without the optimizer's state, as "
            f"{CALIBRATED} of `calibrate` is; use that one for test, predict and validate"
        )


def _difference(found: Mapping[str, Tensor], expected: Mapping[str, torch.Size]) -> str:
    """Return how the weights differ from those expected; nothing if they fit."""
    missing, unexpected = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    wrong = [name for name in expected.keys() & found.keys() if expected[name] != found[name].shape]
    if not (missing or unexpected or wrong):
        return ""
    return (
        f"{len(missing)} weights missing, {len(unexpected)} unexpected, {len(wrong)} of another shape (such as "
        f"{(missing + unexpected + wrong)[0]})"
    )


def _written(adapter: ClassPath) -> str:
    """Write an adapter's configuration as a call."""
    options = ", ".join(f"{name}={value!r}" for name, value in adapter["init_args"].items())
    return f"{adapter['class_path'].rpartition('.')[2]}({options})"


def check_step(calibration: CalibrationRecord, global_step: int) -> None:
    """Warn of strengths that were calibrated for the weights of another step."""
    if calibration["global_step"] != global_step:
        _log.warning(
            "the checkpoint's weights are of step %s, its strengths of step %s: run `svd-lightning calibrate`",
            global_step,
            calibration["global_step"],
        )


def check_steering(steering: Steering, calibration: CalibrationRecord) -> None:
    """Raise InputError if the strengths were calibrated for other rules or features, or another α or λ."""
    expected = {
        "features": [feature_name(feature) for feature in steering.features],
        "rules": [rule_name(rule) for rule in steering.directions],
        "alpha": steering.alpha,
        "penalty": steering.penalty,
    }
    for name, value in expected.items():
        if (found := calibration.get(name, [])) != value:  # records from before features name none
            raise InputError(
                f"steering.{name}: the strengths were calibrated with {found}, got {value}; "
                "calibrate again with `svd-lightning calibrate`, or give steering.strengths yourself"
            )
