"""Where a model can be cut: its decoder layers."""

from torch import nn
from transformers import PreTrainedModel

from svd_lightning.errors import InputError


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The repeated layers of a causal LM's decoder: the longest list of modules in it.

    Raises:
        InputError: for a decoder without such a list.
    """
    lists = [list(part) for part in model.get_decoder().modules() if isinstance(part, nn.ModuleList)]
    if not lists:
        raise InputError(f"model: expected a decoder made of layers, got {type(model).__name__}")
    return max(lists, key=len)
