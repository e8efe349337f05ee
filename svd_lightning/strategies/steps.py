"""Steps that every process takes part in, under any strategy."""

import atexit
from functools import cache
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from svd_lightning.strategies.deepspeed import ZeROStrategy


def is_sharded(trainer: L.Trainer | None) -> bool:
    """Return whether a forward on one process waits for the others."""
    strategy = None if trainer is None else trainer.strategy
    if isinstance(strategy, ZeROStrategy):
        return strategy.zero_stage_3
    return isinstance(strategy, FSDPStrategy | ModelParallelStrategy)


@cache
def leave_group_at_exit() -> None:
    """Close the process group when the interpreter ends; a second call changes nothing.

    Lightning does so for NCCL alone, and a process that ends while gloo's threads still run may abort.
    """
    atexit.register(_leave_group)


def _leave_group() -> None:
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def run_step(trainer: L.Trainer, module: L.LightningModule, name: str, *arguments: Any) -> Any:
    """Call a method of the module that runs its model, outside Lightning's own steps.

    The call goes through the strategy's wrapper: only there FSDP1 gathers the parameters outside the decoder
    layers (embeddings, norm, head), and ZeRO-3 learns that a pass begins.
    """
    wrapper = trainer.strategy.model
    if wrapper is not None and wrapper is not module and is_sharded(trainer):
        return trainer.strategy._forward_redirection(wrapper, module, name, *arguments)
    return getattr(module, name)(*arguments)


def loss_weight(trainer: L.Trainer, labels: Tensor) -> Tensor:
    """Return this process's label tokens over the processes' average, []; 0 if it has none.

    The factor makes DDP's mean of losses the mean over all tokens.
    """
    tokens = (labels[:, 1:] >= 0).sum()
    return tokens * trainer.world_size / trainer.strategy.reduce(tokens.clone(), reduce_op="sum").clamp_min(1)


def any_rank(trainer: L.Trainer, decision: bool) -> bool:
    """Return whether the decision is true on at least one process; the same answer on all of them."""
    return trainer.strategy.reduce_boolean_decision(decision, all=False)


def trained_sum(trainer: L.Trainer, model: nn.Module) -> str:
    """Return the sum of the trained weights to nine digits; the same on every process and under every strategy."""
    if isinstance(trainer.strategy, ZeROStrategy):
        whole = trainer.strategy.lightning_module_state_dict().values()
        return f"{sum(weight.double().sum().item() for weight in whole):.9g}"
    parts, shared = [0.0], [0.0]
    for parameter in model.parameters():
        if parameter.requires_grad:
            is_part = isinstance(parameter, DTensor) or isinstance(trainer.strategy, FSDPStrategy)
            local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
            (parts if is_part else shared).append(local.detach().double().sum().item())
    of_all = torch.tensor(sum(parts), dtype=torch.float64, device=trainer.strategy.root_device)
    if is_sharded(trainer):
        of_all = trainer.strategy.reduce(of_all, reduce_op="sum")
    return f"{of_all.item() + sum(shared):.9g}"
