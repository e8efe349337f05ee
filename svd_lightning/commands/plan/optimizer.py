"""How many bytes an optimizer keeps, asked of the optimizer itself."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from svd_lightning.errors import InputError

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]


def state_bytes(factory: OptimizerFactory, shapes: Sequence[tuple[tuple[int, ...], torch.dtype]]) -> int:
    """Bytes of the state after one step on parameters of these shapes, made on the meta device.

    >>> state_bytes(torch.optim.AdamW, [((3, 4), torch.float32)])  # two moments, and a step counter
    100

    Raises:
        InputError: for an optimizer that cannot step without numbers to look at.
    """
    parameters = [torch.empty(shape, dtype=dtype, device="meta", requires_grad=True) for shape, dtype in shapes]
    if not parameters:
        return 0
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    optimizer = factory(parameters)
    try:
        optimizer.step()
    except (RuntimeError, NotImplementedError, TypeError) as error:
        raise InputError(
            f"model.optimizer: {type(optimizer).__name__} cannot be asked for its size on the meta device "
            f"({' '.join(str(error).split())[:80]}); plan with torch.optim.AdamW, which keeps two numbers a weight"
        ) from error
    leaves = tree_leaves(list(optimizer.state.values()))
    return sum(leaf.numel() * leaf.itemsize for leaf in leaves if isinstance(leaf, Tensor))
