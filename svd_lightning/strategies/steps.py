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


def has_one_dtype(trainer: L.Trainer | None) -> bool:
    """Return whether the strategy needs all weights in one number format, the adapter's too.

    FSDP1 flattens a layer's weights and its adapter into one tensor. DeepSpeed casts all of them, and its
    optimizer keeps a float32 copy of the trained ones.
    """
    return trainer is not None and isinstance(trainer.strategy, FSDPStrategy | ZeROStrategy)


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


class TokenMean:
    """Makes the loss of an optimizer step the mean over its label tokens, of all its batches and processes.

    Lightning takes the mean of the processes' losses, and divides each by `accumulate_grad_batches`, however many
    tokens a batch has and however few batches the last step of an epoch has. Here each batch counts by its tokens
    over those of the step's first batch; once all are known, `finish` corrects the gradients by the rest.
    """

    def __init__(self) -> None:
        self._batches: list[Tensor] = []  # label tokens of the step's batches, of all processes

    def add(self, trainer: L.Trainer, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Count a batch's tokens, and return the factors, [], of its mean loss on this process; 0 if it has none.

        The first gives a loss whose mean over the processes is that over the batch's tokens; the second, the loss
        for the backward pass.
        """
        own = (labels[:, 1:] >= 0).sum()
        self._batches.append(trainer.strategy.reduce(own.clone(), reduce_op="sum"))
        here, first = (self._batches[number].clamp_min(1) for number in (-1, 0))
        return own * trainer.world_size / here, own * trainer.world_size / first

    def finish(self, trainer: L.Trainer, module: nn.Module) -> None:
        """Scale the accumulated gradients, and begin the next step; call it before they are clipped."""
        if trainer.accumulate_grad_batches > 1:
            first, total = self._batches[0].clamp_min(1), torch.stack(self._batches).sum().clamp_min(1)
            factor = trainer.accumulate_grad_batches * first.item() / total.item()
            if isinstance(trainer.strategy, ZeROStrategy):
                trainer.strategy.scale_gradients(factor)
            else:
                for parameter in module.parameters():
                    if parameter.grad is not None:
                        parameter.grad.mul_(factor)
        self._batches = []


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
