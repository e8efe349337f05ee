"""Each token once, in one order, over all processes."""

import torch
import torch.distributed as dist
from torch import Tensor

from svd_lightning.processes import host_group, several_processes


def in_order(example: Tensor, position: Tensor) -> Tensor:
    """Return the rows of the tokens by (example, position), the first of each repetition only, int64 [n]."""
    if not len(example):
        return example
    key = example * (position.max() + 1) + position
    key, order = key.sort(stable=True)
    first = torch.ones_like(key, dtype=torch.bool)
    first[1:] = key[1:] != key[:-1]
    return order[first]


def merged(example: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """Merge all processes' tokens into one order.

    Args:
        example, position: numbers of this process's tokens, int64 [n].

    Returns:
        Each token's example [N], and the row of each of this process's tokens in it [n]; −1 for a repetition.
    """
    parts: list[tuple[Tensor, Tensor]] = [(example, position)]
    rank = 0
    if several_processes():
        rank, parts = dist.get_rank(), [(example, position)] * dist.get_world_size()
        dist.all_gather_object(parts, (example, position), group=host_group())
    examples, positions = (torch.cat(columns) for columns in zip(*parts, strict=True))
    order = in_order(examples, positions)
    place = torch.full_like(examples, -1)
    place[order] = torch.arange(len(order))
    before = sum(len(part[0]) for part in parts[:rank])
    return examples[order], place[before : before + len(example)]
