"""What the processes of a run tell each other: through host memory, which NCCL cannot send."""

from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

_BESIDE: WeakKeyDictionary[dist.ProcessGroup, dist.ProcessGroup] = WeakKeyDictionary()
"""The group over gloo beside a default group without a backend for the CPU."""


def several_processes() -> bool:
    """Return whether this process shares its work with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def host_group() -> dist.ProcessGroup:
    """Return a group of all processes that sends what lies in host memory. Call it on every process.

    It is the default group where that one can; else a group over gloo, made at the first call.
    """
    world = dist.group.WORLD
    assert world is not None
    if "cpu:" in dist.get_backend_config():  # such as "cpu:gloo,cuda:nccl"; NCCL alone says "cuda:nccl"
        return world
    if world not in _BESIDE:
        _BESIDE[world] = dist.new_group(backend="gloo")
    return _BESIDE[world]


def gather_objects(own: Any) -> list[Any]:
    """Return every process's object, by rank; it is pickled. Call it on every process."""
    if not several_processes():
        return [own]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, own, group=host_group())
    return found


def gather(tensor: Tensor, group: Any = None) -> list[Tensor]:
    """Return every process's tensor, on the CPU, by rank; their shapes may differ.

    Args:
        tensor: on any device.
        group: ignored; torchmetrics gives it to a metric's `dist_sync_fn`.
    """
    return gather_all_tensors(tensor.cpu(), host_group())


def highest(value: int) -> int:
    """Return the highest value of all processes. Call it on every process."""
    if not several_processes():
        return value
    found = torch.tensor(value)
    dist.all_reduce(found, dist.ReduceOp.MAX, group=host_group())
    return int(found)
