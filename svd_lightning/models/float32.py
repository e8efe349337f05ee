"""A model's own weights, computing in float32: the reference for rounding noise."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
from transformers import PreTrainedModel

from svd_lightning.models.arithmetic import NARROW, Autocast


@contextmanager
def in_float32(model: PreTrainedModel) -> Iterator[None]:
    """Make a model compute in float32 on the weights that it has, within the context and without gradients.

    Each operation widens the weights it uses, so that there is never a second model; sharded weights are gathered
    as always. No key-value cache that was filled outside can be used.
    """
    decoder, config = model.get_decoder(), model.config.get_text_config()
    inner, attention = decoder.__dict__.get("forward"), config._attn_implementation
    if isinstance(inner, Autocast):
        del decoder.__dict__["forward"]
    if str(attention).startswith("flash"):  # these kernels know 16 bits only
        config._attn_implementation = "sdpa"
    try:
        with torch.no_grad(), torch.autocast(model.device.type, enabled=False), _Widened():
            yield
    finally:
        config._attn_implementation = attention
        if isinstance(inner, Autocast):
            decoder.__dict__["forward"] = inner


_CASTS = {torch.Tensor.to, torch.Tensor.type, torch.Tensor.type_as}
_COMPUTE = {
    *(F.linear, F.layer_norm, F.rms_norm, F.group_norm, F.conv1d, F.bilinear, F.scaled_dot_product_attention),
    *(torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.bmm, torch.Tensor.bmm, torch.baddbmm),
    *(torch.mm, torch.Tensor.mm, torch.addmm, torch.einsum, torch.conv1d, torch.rms_norm, torch.layer_norm),
    torch._grouped_mm,
}


class _Widened(TorchFunctionMode):
    """Widens factors to float32, and keeps results from being narrowed again.

    It names what it changes, and casts no narrow tensor: the bookkeeping of sharded weights must stay as it is.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _COMPUTE or (func in _CASTS and args[0].dtype == torch.float32):
            args, kwargs = tree_map(_wide, (args, kwargs or {}))
        result = func(*args, **(kwargs or {}))
        return _wide(result) if func is F.embedding else result


def _wide(value: Any) -> Any:
    """Return float32 in place of a tensor of 16 bits or the name of its format; anything else as it is."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in NARROW else value
    return torch.float32 if value in NARROW else value
