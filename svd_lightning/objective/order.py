"""The tokens of all processes in one order."""

import torch
import torch.distributed as dist
from torch import Tensor


def ordered(example: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """Example of every token over all processes [N], and where among them this process's stand, int64 [n].

    Ordered by (example, position). A token that an earlier process has, or that came before, stands at −1.
    """
    parts: list[tuple[Tensor, Tensor]] = [(example, position)]
    rank = 0
    if several_processes():
        rank, parts = dist.get_rank(), [(example, position)] * dist.get_world_size()
        dist.all_gather_object(parts, (example, position))
    examples, positions = (torch.cat(columns) for columns in zip(*parts, strict=True))
    if not len(examples):
        return examples, examples
    key = examples * (positions.max() + 1) + positions
    key, order = key.sort(stable=True)
    first = torch.ones_like(key, dtype=torch.bool)
    first[1:] = key[1:] != key[:-1]
    place = torch.full_like(key, -1)
    place[order[first]] = torch.arange(int(first.sum()))
    before = sum(len(part[0]) for part in parts[:rank])
    return examples[order[first]], place[before : before + len(example)]


def several_processes() -> bool:
    """Whether this one shares its work with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
