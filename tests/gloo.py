"""Two real processes for the tests of metrics that reduce over processes."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed


def run_both(measure: Callable[[int], Any], folder: Path) -> list[Any]:
    """What `measure(rank)` returns on each of two processes that share a gloo group; it must be importable."""
    torch.multiprocessing.spawn(_run, args=(measure, folder), nprocs=2)
    return [torch.load(_file(folder, rank), weights_only=False) for rank in (0, 1)]


def _run(rank: int, measure: Callable[[int], Any], folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'rendezvous'}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    try:
        torch.save(measure(rank), _file(folder, rank))
    finally:
        distributed.destroy_process_group()


def _file(folder: Path, rank: int) -> Path:
    return folder / f"rank{rank}.pt"
