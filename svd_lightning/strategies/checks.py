"""Refuse strategies that cannot work with an adapter on a frozen base, before weights are loaded."""

import lightning as L
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from peft import PeftConfig
from transformers import PretrainedConfig

from svd_lightning.errors import InputError
from svd_lightning.models import Backbone
from svd_lightning.strategies.deepspeed import ZeROStrategy
from svd_lightning.strategies.fsdp1 import FSDP1Strategy
from svd_lightning.strategies.fsdp2 import FSDP2Strategy
from svd_lightning.strategies.steps import is_sharded


def check_strategy(trainer: L.Trainer, backbone: Backbone, adapter: PeftConfig, *, masked: bool = True) -> None:
    """Refuse a strategy, or options beside it, that would fail later or compute something else.

    Args:
        trainer: about to run.
        backbone: the module's base.
        adapter: its adapter's configuration.
        masked: whether the steering to calibrate has a mask.

    Raises:
        InputError: says what to write instead.
    """
    strategy = trainer.strategy
    if isinstance(strategy, DeepSpeedStrategy):
        _check_deepspeed(trainer, strategy, backbone)
    if isinstance(strategy, FSDPStrategy) and not isinstance(strategy, FSDP1Strategy):
        raise InputError(
            "trainer.strategy: Lightning's FSDPStrategy does not know where to cut the model, and cannot load the "
            "adapter-only checkpoints that it would save in shards; write --config configs/strategy/fsdp.yaml"
        )
    if isinstance(strategy, ModelParallelStrategy) and not isinstance(strategy, FSDP2Strategy):
        raise InputError(
            "trainer.strategy: ModelParallelStrategy shards nothing by its default sizes, and tensor parallelism "
            "has no plan for adapters; write --config configs/strategy/fsdp2.yaml"
        )
    if is_sharded(trainer) and (backbone.load_in_4bit or backbone.load_in_8bit):
        name = "load_in_4bit" if backbone.load_in_4bit else "load_in_8bit"
        raise InputError(
            f"model.backbone.{name}: quantised weights cannot be split over processes here; leave it out, or "
            "write --config configs/strategy/ddp.yaml"
        )
    if isinstance(strategy, FSDP2Strategy) and adapter.is_prompt_learning:
        raise InputError(
            "model.adapter: PEFT puts virtual tokens beside the base's embeddings outside its forward, where "
            "FSDP2 has not gathered them; write --config configs/strategy/fsdp.yaml, or take LoRA"
        )
    if isinstance(strategy, FSDP1Strategy):
        _check_fsdp1(trainer, strategy, backbone, masked=masked)


def _check_deepspeed(trainer: L.Trainer, strategy: DeepSpeedStrategy, backbone: Backbone) -> None:
    if not isinstance(strategy, ZeROStrategy):
        raise InputError(
            "trainer.strategy: Lightning's DeepSpeedStrategy saves folders that no other strategy can load, and "
            "divides accumulated gradients twice; write --config configs/strategy/deepspeed_zero2.yaml, "
            "deepspeed_zero3.yaml or deepspeed_zero3_offload.yaml"
        )
    if trainer.gradient_clip_val and str(trainer.gradient_clip_algorithm or "norm").endswith("value"):
        raise InputError(
            "trainer.gradient_clip_algorithm: DeepSpeed clips by norm only, got value; leave it out, or write "
            "--config configs/strategy/fsdp2.yaml"
        )


def _check_fsdp1(trainer: L.Trainer, strategy: FSDP1Strategy, backbone: Backbone, *, masked: bool) -> None:
    offloads = strategy.cpu_offload is not None and strategy.cpu_offload.offload_params
    if offloads and strategy.root_device.type == "cpu":
        raise InputError(
            "trainer.strategy.cpu_offload: expected a GPU to offload from, got the CPU, where every shard lies "
            "already; leave it out"
        )
    if not masked and trainer.state.fn in (TrainerFn.FITTING, TrainerFn.VALIDATING):
        raise InputError(
            "steering.alpha: without a mask the calibration runs the model's head many times, which FSDP1 gathers "
            "within a step only; set alpha (0.001 comes close to none), or write --config "
            "configs/strategy/fsdp2.yaml"
        )
    if trainer.gradient_clip_val and str(trainer.gradient_clip_algorithm or "norm").endswith("norm"):
        raise InputError(
            "trainer.gradient_clip_val: FSDP1 sees a part of each gradient, and cannot clip by norm; write "
            "--trainer.gradient_clip_algorithm value, or --config configs/strategy/fsdp2.yaml"
        )
    stored = stored_dtype(backbone.load_config()) if backbone.dtype == "auto" else backbone.dtype
    if "mixed" in str(trainer.precision) and stored != "float32":
        # It flattens a layer's weights and its adapter, float32 by PEFT, into one tensor.
        raise InputError(
            f"trainer.precision: FSDP1 needs base and adapter in one dtype, got a {stored} base and a float32 "
            f"adapter under {trainer.precision}; write --trainer.precision bf16-true, or "
            "--model.backbone.dtype float32"
        )
    if strategy.num_nodes * strategy.num_processes == 1:  # fails on tied embeddings
        raise InputError(
            "trainer.strategy: FSDP1 splits the model over two processes or more, got one; raise "
            "--trainer.devices, or write --config configs/strategy/fsdp2.yaml or single.yaml"
        )


def stored_dtype(config: PretrainedConfig) -> str:
    """Return the number format in which transformers loads a base; float32 if its configuration does not say."""
    dtype = getattr(config.get_text_config(), "dtype", None) or getattr(config, "dtype", None) or torch.float32
    return str(dtype).removeprefix("torch.")
