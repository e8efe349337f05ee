"""What determines the memory of a run, from its parsed configuration."""

from sys import maxsize
from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace
from peft import PeftConfig

from svd_lightning.data import CompletionDataModule
from svd_lightning.decoding.generation import generation_config
from svd_lightning.errors import InputError
from svd_lightning.models import Backbone, adapter_config, base_of_adapter
from svd_lightning.module import SteeredLanguageModel
from svd_lightning.planning.activations import Batches
from svd_lightning.planning.blank import precision_of
from svd_lightning.planning.layouts import FSDP1, FSDP2, Layout, Whole, ZeRO
from svd_lightning.planning.memory import Setting

_ZERO = {"stage": "stage", "offload": "offload", "persistence_threshold": "persistent", "bucket_size": "bucket"}
"""Options of ZeROStrategy, and their names in the layout."""


def setting_of(config: Namespace, *, tokens: int | None = None, gpu: int | None = None) -> Setting:
    """Collect what determines the memory of a run from the options of `fit`, without making trainer or strategy.

    Args:
        config: with the groups trainer, model and data.
        tokens: completion tokens of the calibration split; None takes what a count of examples allows.
        gpu: a GPU's memory for tensors in bytes; None for what the trainer's accelerator says, a CPU, or a GPU
            with room enough.

    Raises:
        InputError: for a run without a base or an adapter, or with a strategy that has no layout.
    """
    model, data = parts(config)
    gpu = maxsize if gpu is None and is_gpu(config.trainer) else gpu
    return setting_for(config, model, data, tokens=tokens, gpu=gpu)


def setting_for(
    config: Namespace,
    model: Namespace,
    data: CompletionDataModule,
    *,
    tokens: int | None = None,
    gpu: int | None = None,
) -> Setting:
    """Do the same as `setting_of` with the parts that were made of the configuration; None for `gpu` is a CPU."""
    backbone, adapter = models(model)
    generation = generation_config(model.generation or {}, backbone.load_generation())
    per_node, nodes = processes(config.trainer)
    layout = layout_of(config.trainer, processes=per_node * nodes)
    examples = data.calibration if isinstance(data.calibration, int) else None
    return Setting(
        backbone=backbone,
        adapter=adapter,
        optimizer=model.optimizer,
        layout=layout,
        batches=Batches(
            train_rows=data.batch_size,
            eval_rows=data.eval_batch_size or data.batch_size,
            length=data.max_length,
            new_tokens=generation.max_new_tokens or 20,  # transformers' own default
            sequences=max(generation.num_beams or 1, generation.num_return_sequences or 1),
        ),
        precision=config.trainer.precision,
        checkpointing=model.gradient_checkpointing,
        processes=per_node * nodes,
        processes_per_node=per_node,
        calibration_tokens=tokens if tokens is not None else examples and examples * (data.max_length - 1),
        gpu=gpu,
    )


def layout_of(trainer: Namespace, *, processes: int) -> Layout:
    """Return a strategy's layout by its name: it need not be installed, nor able to run on this machine.

    Raises:
        InputError: for a strategy that is not in configs/strategy/.
    """
    given = trainer.strategy
    name, options = (given, {}) if isinstance(given, str) else (given.class_path, given.get("init_args") or {})
    name = name.rpartition(".")[2]
    if name in ("auto", "SingleDeviceStrategy") or name.startswith("ddp") or name == "DDPStrategy":
        return Whole(ddp=processes > 1)
    if name == "FSDP1Strategy":
        mixed = precision_of(trainer.precision, casts_always=True).autocast
        whole = options.get("sharding_strategy") == "SHARD_GRAD_OP"
        return FSDP1(whole_in_step=whole, gathered_in=mixed, offload=bool(options.get("cpu_offload")))
    if name == "FSDP2Strategy":
        return FSDP2()
    if name == "ZeROStrategy":
        return ZeRO(**{ours: options[name] for name, ours in _ZERO.items() if options.get(name) is not None})
    raise InputError(
        f"trainer.strategy: expected a strategy of configs/strategy/, got {name!r}; add for example "
        "--config configs/strategy/fsdp2.yaml"
    )


def parts(config: Namespace) -> tuple[Namespace, CompletionDataModule]:
    """Return the module's arguments and the data module, without making a trainer."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(SteeredLanguageModel, "model", instantiate=False, sub_configs=True)
    parser.add_subclass_arguments(CompletionDataModule, "data", required=True)
    made: Any = parser.instantiate_classes(Namespace(model=config.model, data=config.data))
    return made.model, made.data


def models(model: Namespace) -> tuple[Backbone, PeftConfig]:
    """Return the base and the adapter's configuration."""
    backbone, config = model.backbone, adapter_config(model.adapter)
    return (base_of_adapter(backbone, config) if isinstance(model.adapter, str) else backbone), config


def is_gpu(trainer: Namespace) -> bool:
    """Return whether a trainer's accelerator is a GPU, on this machine where it is `auto`."""
    return trainer.accelerator in ("gpu", "cuda") or (trainer.accelerator == "auto" and torch.cuda.is_available())


def processes(trainer: Namespace) -> tuple[int, int]:
    """Return processes per node, and nodes; 'auto' counts the devices of this machine."""
    devices = trainer.devices
    if devices in ("auto", -1, "-1"):
        on_gpu = trainer.accelerator in ("auto", "gpu", "cuda")
        count = max(torch.cuda.device_count(), 1) if on_gpu else 1
    elif isinstance(devices, str):
        count = len([part for part in devices.split(",") if part.strip()]) if "," in devices else int(devices)
    else:
        count = len(devices) if isinstance(devices, list) else devices
    return count, int(trainer.num_nodes)
