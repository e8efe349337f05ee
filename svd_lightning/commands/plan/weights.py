"""Every weight of a model with its size as it is stored, quantised or not."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import nn
from transformers.pytorch_utils import Conv1D

from svd_lightning.models import Backbone, decoder_layers

_BLOCK = 64
"""bitsandbytes' NF4 block: one float32 scale for so many weights."""


@dataclass(frozen=True)
class Weight:
    """A parameter or buffer."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    stored: int
    """Bytes, in the format it is kept in."""
    of_base: bool
    trained: bool
    unit: int
    """Number of the decoder layer that it belongs to, from 1; 0 is outside them."""
    buffer: bool = False

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def model_weights(model: PeftModel, base_ids: set[int], backbone: Backbone) -> list[Weight]:
    """Parameters and buffers of a model, tied ones once.

    Args:
        model: from `blank_model`.
        base_ids: which of its parameters are the base's.
        backbone: whether the base is quantised: then its linear layers are, but for the output head.
    """
    base = model.get_base_model()
    units = {
        id(tensor): number
        for number, layer in enumerate(decoder_layers(base), start=1)
        for tensor in (*layer.parameters(), *layer.buffers())
    }
    quantised = _quantised(model, base_ids, backbone)
    found: dict[int, Weight] = {}
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


def _quantised(model: PeftModel, base_ids: set[int], backbone: Backbone) -> set[int]:
    """Ids of the weights that bitsandbytes would quantise: those of the base's linear layers but the head."""
    if not (backbone.load_in_4bit or backbone.load_in_8bit):
        return set()
    head = model.get_base_model().get_output_embeddings()
    kept = {id(parameter) for parameter in head.parameters()} if head is not None else set()
    linear = {id(part.weight) for part in model.modules() if isinstance(part, nn.Linear | Conv1D)}
    return (linear & base_ids) - kept


def _quantised_bytes(shape: Sequence[int], backbone: Backbone) -> int:
    """NF4: half a byte an element, a float32 scale a block, a 16-entry code; int8: a float32 scale a row."""
    numel = math.prod(shape)
    if backbone.load_in_4bit:
        return math.ceil(numel / 2) + 4 * math.ceil(numel / _BLOCK) + 16 * 4
    return numel + 4 * shape[0]
