"""The weights of a model with their stored sizes, quantised or not, and the bytes of an optimizer's state."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves
from transformers.pytorch_utils import Conv1D

from svd_lightning.errors import InputError
from svd_lightning.models import Backbone, decoder_layers

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]

_BLOCK = 64
"""Weights in a block of bitsandbytes' NF4, which has one float32 scale."""


@dataclass(frozen=True)
class Weight:
    """A parameter or buffer."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    stored: int
    """Bytes in the format in which it is stored."""
    of_base: bool
    trained: bool
    unit: int
    """Number of its decoder layer, from 1; 0 outside the layers."""
    buffer: bool = False

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def model_weights(model: PeftModel, base_ids: set[int], backbone: Backbone) -> list[Weight]:
    """Return the parameters and buffers of a model, tied ones once.

    Args:
        model: from `blank_model`.
        base_ids: `id`s of the base's parameters in it.
        backbone: tells whether the base is quantised: all its linear layers except the output head.
    """
    base = model.get_base_model()
    units = {
        id(tensor): number
        for number, layer in enumerate(decoder_layers(base), start=1)
        for tensor in (*layer.parameters(), *layer.buffers())
    }
    quantised = _quantised(model, base_ids, backbone)
    found: dict[int, Weight] = {}  # by id
    for tensor in (*model.parameters(), *model.buffers()):
        of_base = id(tensor) in base_ids or not isinstance(tensor, nn.Parameter)
        plain = tensor.numel() * tensor.itemsize
        found[id(tensor)] = Weight(
            shape=tuple(tensor.shape),
            dtype=tensor.dtype,
            stored=_quantised_bytes(tensor.shape, backbone) if id(tensor) in quantised else plain,
            of_base=of_base,
            trained=tensor.requires_grad,
            unit=units.get(id(tensor), 0),
            buffer=not isinstance(tensor, nn.Parameter),
        )
    return list(found.values())


def state_bytes(factory: OptimizerFactory, shapes: Sequence[tuple[tuple[int, ...], torch.dtype]]) -> int:
    """Return the bytes of an optimizer's state after one step on parameters of these shapes, on the meta device.

    >>> state_bytes(torch.optim.AdamW, [((3, 4), torch.float32)])  # two moments, and a step counter
    100

    Raises:
        InputError: for an optimizer that needs numbers to make a step.
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


def _quantised(model: PeftModel, base_ids: set[int], backbone: Backbone) -> set[int]:
    """Return the ids of the weights that bitsandbytes would quantise."""
    if not (backbone.load_in_4bit or backbone.load_in_8bit):
        return set()
    head = model.get_base_model().get_output_embeddings()
    kept = {id(parameter) for parameter in head.parameters()} if head is not None else set()
    linear = {id(part.weight) for part in model.modules() if isinstance(part, nn.Linear | Conv1D)}
    return (linear & base_ids) - kept


def _quantised_bytes(shape: Sequence[int], backbone: Backbone) -> int:
    """NF4: half a byte per element, a float32 scale per block, a code of 16; int8: a float32 scale per row."""
    numel = math.prod(shape)
    if backbone.load_in_4bit:
        return math.ceil(numel / 2) + 4 * math.ceil(numel / _BLOCK) + 16 * 4
    return numel + 4 * shape[0]
