"""Logits in, logits out: what steering is to the decoder, and which logits are refused."""

from collections.abc import Callable

import torch
from torch import Tensor

from svd_lightning.errors import InputError

SteeringFunction = Callable[[Tensor, Tensor], Tensor]
"""(tuned logits, base logits), [..., V] each → steered logits [..., V]; usually a `Steering`."""


def check_logits(name: str, logits: Tensor) -> None:
    """Refuse logits from which no token can be picked; one pass, no effect inside a compiled graph.

    Raises:
        InputError: for NaN, +∞, or nothing but −∞.
    """
    if torch.compiler.is_compiling() or logits.numel() == 0:
        return
    if not logits.amax(dim=-1).isfinite().all():
        raise InputError(
            f"{name}: expected finite numbers or -inf, got NaN or +inf (or a row of -inf only); the weights "
            "or the adapter are damaged, or the dtype overflows: try bfloat16 or float32"
        )
