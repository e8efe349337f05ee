"""Buffers that keep their number format when weights change theirs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def float32_buffers(module: nn.Module) -> Iterator[None]:
    """Within it the module may move, or change its number format: float32 buffers move along and stay float32.

    Transformers keeps rotary frequencies in float32 whatever the weights are. Cast to bfloat16, as Lightning's
    `bf16-true` would, they are off by up to 0.4 %: a token a thousand positions away is misplaced by several.
    """
    kept = [
        (part, name, buffer)
        for part in module.modules()
        for name, buffer in part.named_buffers(recurse=False)
        if buffer.dtype == torch.float32
    ]
    yield
    for part, name, buffer in kept:
        now = part._buffers[name]
        if now is not None and now.dtype != buffer.dtype:
            part._buffers[name] = buffer.to(now.device)
