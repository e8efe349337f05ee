"""Memory that is free goes back to the system, also between tensors that stay."""

import platform
from pathlib import Path

import pytest
import torch

from svd_lightning.heap import trim_heap


def resident():
    """This process's resident memory, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc, whose heap it trims")
def test_holes_between_small_tensors_are_returned():
    torch.ones(2**23).sum()  # once 32 MB are freed, smaller blocks come from the heap
    trim_heap()
    before, small, large = resident(), [], []
    for _ in range(20):
        large.append(torch.ones(2**21))  # 8 MB
        small.append(torch.ones(8))
    assert resident() - before > 120.0
    del large
    trim_heap()
    assert resident() - before < 40.0
    assert len(small) == 20
