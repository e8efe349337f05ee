"""FSDP1, with every decoder layer a unit of its own."""

from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import FSDPStrategy
from torch import nn
from torch.distributed.fsdp import (
    FullOptimStateDictConfig,
    FullStateDictConfig,
    FullyShardedDataParallel,
    MixedPrecision,
    OptimStateKeyType,
    StateDictType,
)
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.optim import Optimizer
from torch.optim.optimizer import StateDict

from svd_lightning.errors import InputError
from svd_lightning.models import decoder_layers
from svd_lightning.strategies.shared import Checkpoint, hold_device, read_checked


class FSDP1Strategy(FSDPStrategy):
    """Lightning's `FSDPStrategy`, cut at the model's own decoder layers; checkpoints hold the whole adapter.

    It works on CPU processes too, for trials.

    Args:
        sharding_strategy: FULL_SHARD splits weights, gradients and optimizer states; SHARD_GRAD_OP keeps whole
            weights between forward and backward.
        cpu_offload: keep the shards in CPU memory between uses.
        timeout_seconds: how long a process waits for the others before it gives up.
    """

    def __init__(
        self,
        *,
        sharding_strategy: Literal["FULL_SHARD", "SHARD_GRAD_OP"] = "FULL_SHARD",
        cpu_offload: bool = False,
        timeout_seconds: float = 1800.0,
    ) -> None:
        super().__init__(
            sharding_strategy=sharding_strategy,
            cpu_offload=cpu_offload,
            timeout=timedelta(seconds=timeout_seconds),
            state_dict_type="full",
            use_orig_params=True,  # a layer holds frozen and trained weights
        )

    @property
    def mixed_precision_config(self) -> MixedPrecision | None:
        """Lightning's, but buffers (rotary frequencies) stay float32."""
        config = super().mixed_precision_config
        return None if config is None else replace(config, buffer_dtype=torch.float32)

    def _setup_model(self, model: nn.Module) -> nn.Module:
        """Wrap each decoder layer, and then the module."""
        if any(isinstance(part, FullyShardedDataParallel) for part in model.modules()):
            raise InputError(
                "model: FSDP1 has wrapped this module in an earlier run, and cannot do so again; make a new one "
                "and give the checkpoint as ckpt_path"
            )
        hold_device(self.lightning_module, self.root_device)
        layers = decoder_layers(getattr(self.lightning_module, "peft_model").get_base_model())  # noqa: B009  mypy
        on_cpu = self.root_device.type == "cpu"
        return FullyShardedDataParallel(
            module=model,
            cpu_offload=self.cpu_offload,
            mixed_precision=self.mixed_precision_config,
            sharding_strategy=self.sharding_strategy,
            device_id=self.root_device if on_cpu else self.root_device.index,
            auto_wrap_policy=ModuleWrapPolicy({type(layer) for layer in layers}),
            sync_module_states=not on_cpu,
            **self.kwargs,
        )

    def lightning_module_state_dict(self) -> StateDict:
        """Return all weights, whole; if they are on GPUs, on the first process only."""
        assert self.model is not None
        with self._whole():
            return self.model.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> StateDict:
        """Return the optimizer's state, whole, in the format of an unsharded run."""
        inner = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        assert self.model is not None
        with self._whole():
            state = FullyShardedDataParallel.optim_state_dict(self.model, inner)
            if self.global_rank == 0:
                return FullyShardedDataParallel.rekey_optim_state_dict(
                    state, OptimStateKeyType.PARAM_ID, self.model
                )
            return state

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> Checkpoint:
        """Load as Lightning does, but return the weights too, so that the module sees them."""
        weights = read_checked(self.broadcast(checkpoint_path), self.lightning_module)
        return {**super().load_checkpoint(checkpoint_path, weights_only), "state_dict": weights}

    def _whole(self) -> AbstractContextManager:
        """Gather state dicts within it, and offload them to the CPU unless they are there."""
        assert self.model is not None
        away = self.root_device.type != "cpu"
        return FullyShardedDataParallel.state_dict_type(
            self.model,
            StateDictType.FULL_STATE_DICT,
            FullStateDictConfig(offload_to_cpu=away, rank0_only=away),
            FullOptimStateDictConfig(offload_to_cpu=away, rank0_only=away),
        )
