"""The number formats in which a model computes: weights, products, residual stream, head."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from transformers import PreTrainedModel

Arithmetic = dict[str, str]
"""Number formats, as PyTorch names them: of the base's `weights`, of the factors in matrix `products`, of the
`residual` stream to which every layer adds, and of the logits that the `head` gives."""

NARROW = (torch.bfloat16, torch.float16)
"""Number formats that are rounded to 8 or 11 significant bits."""

_formats_log = logging.getLogger(__name__)


class WideHead(nn.Linear):
    """A linear layer that computes in float32, whatever its weights are, and under autocast too."""

    def forward(self, input: Tensor) -> Tensor:
        """Return y = x Wᵀ + b in float32."""
        with torch.autocast(input.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.float()
            return F.linear(input.float(), self.weight.float(), bias)


class WideNorm(nn.LayerNorm):
    """A layer norm of float32 states, whatever its weights are; on CPUs autocast does not widen them."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised states in float32."""
        weight, bias = (None if one is None else one.float() for one in (self.weight, self.bias))
        return F.layer_norm(input.float(), self.normalized_shape, weight, bias, self.eps)


def widen_head(model: PreTrainedModel, *, copy_weights: bool = True) -> None:
    """Make a model's head compute its logits in float32, for good; a second call changes nothing.

    Logits in bfloat16 are rounded to 0.06 from 8 on, and log p − log q carries the rounding of both models. Heads
    that are not linear layers stay as they are.

    Args:
        model: a causal LM.
        copy_weights: give frozen weights of 16 bits a float32 copy of their own, V × H × 4 bytes; embeddings that
            were tied to them keep theirs. Without it, and where they are sharded or trained, they are widened at
            every use, which decoding pays for at every token.
    """
    head = model.get_output_embeddings()
    for part in () if head is None else list(head.modules()):
        if type(part) is nn.Linear:
            part.__class__ = WideHead
        if not isinstance(part, WideHead) or not copy_weights:
            continue
        weight = part.weight
        if weight.dtype in NARROW and not weight.requires_grad and not isinstance(weight, DTensor):
            part.weight = nn.Parameter(weight.float(), requires_grad=False)


def widen_residual(model: PreTrainedModel, products: torch.dtype) -> None:
    """Give a model a residual stream and a head of float32, for good: only the factors of products are narrow.

    Args:
        model: a causal LM.
        products: the number format of factors in matrix products, by autocast.
    """
    decoder = model.get_decoder()
    if isinstance(decoder.__dict__.get("forward"), Autocast):
        decoder.__dict__["forward"].dtype = products
        return
    widen_head(model)
    for part in decoder.modules():
        if type(part) is nn.LayerNorm:
            part.__class__ = WideNorm
    model.get_input_embeddings().register_forward_hook(_as_float32)
    decoder.__dict__["forward"] = Autocast(decoder, products)


def narrowing(module: nn.Module, convert: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a conversion for `module._apply` that leaves in float32 what must stay so.

    - Trained weights: in bfloat16 most steps of an optimizer are rounded away.
    - Buffers: rotary frequencies in bfloat16 are off by up to 0.4 %, and a token a thousand positions away is
      misplaced by several.
    - The format of a `WideHead`'s own weights; their values are rounded as those of the others.

    Args:
        module: holds the tensors that will be converted.
        convert: moves a tensor or changes its number format.
    """
    embeddings = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    heads = {id(part.weight) for part in module.modules() if isinstance(part, WideHead)} - embeddings
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
    kept = {id(tensor) for tensor in (*trained, *gradients, *module.buffers())}

    def keeping(tensor: Tensor) -> Tensor:
        converted = convert(tensor)
        if tensor.dtype != torch.float32 or converted.dtype not in NARROW:
            return converted
        if id(tensor) in kept:
            return tensor.to(converted.device)
        return converted.float() if id(tensor) in heads else converted

    return keeping


def cast_frozen(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast a module's floating-point tensors, but those that `narrowing` leaves in float32."""
    module._apply(narrowing(module, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor))


class Autocast:
    """A module's own forward under autocast, also in copies of the module."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        self.module, self.dtype = module, dtype
        self.__wrapped__ = type(module).forward.__get__(module)  # signatures are read from it

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        device: torch.device = self.module.device  # type: ignore[assignment]
        with torch.autocast(device.type, dtype=self.dtype):
            return type(self.module).forward(self.module, *args, **kwargs)


def _as_float32(module: nn.Module, args: object, output: Tensor) -> Tensor:
    return output.float()


def arithmetic_of(model: PreTrainedModel) -> Arithmetic:
    """Return the number formats in which a causal LM, with or without an adapter, computes where this is called.

    A surrounding autocast, such as a Trainer's, counts.
    """
    weights, inner, device = model.dtype, model.get_decoder().__dict__.get("forward"), model.device.type
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weights
    wide = isinstance(inner, Autocast)
    products = inner.dtype if wide else autocast
    head = model.get_output_embeddings()
    has_wide_head = head is not None and any(isinstance(part, WideHead) for part in head.modules())
    return {
        "weights": _dtype_name(weights),
        "products": _dtype_name(products),
        "residual": _dtype_name(torch.float32 if wide else weights),
        "head": _dtype_name(torch.float32 if has_wide_head else products),
    }


def use_arithmetic(model: PreTrainedModel, record: Arithmetic) -> None:
    """Make a model compute in the recorded number formats, for good; weights that are trained keep theirs."""
    weights = getattr(torch, record["weights"])
    if model.dtype != weights:
        cast_frozen(model, weights)
    widen_head(model)
    if record["residual"] != record["products"]:
        widen_residual(model, getattr(torch, record["products"]))


def check_arithmetic(found: Arithmetic, calibrated: Arithmetic | None) -> None:
    """Warn if a model computes in other number formats than those for which it was calibrated.

    Args:
        found: of the model.
        calibrated: of the calibration; None where no record says so.
    """
    if calibrated is not None and found != calibrated:
        names = [name for name, value in calibrated.items() if found.get(name) != value]
        then, now = ([f"{name} {record.get(name)}" for name in names] for record in (calibrated, found))
        _formats_log.warning(
            "the steering was calibrated with %s, and decodes with %s: answers may differ, and its gain is not "
            "measured; load the base in the format of the calibration, or calibrate again",
            ", ".join(then),
            ", ".join(now),
        )


def settle_arithmetic(model: PreTrainedModel, calibrated: Arithmetic | None) -> None:
    """Make a given model compute as in the calibration, if its weights have that format; else warn.

    Args:
        model: a causal LM.
        calibrated: number formats of the calibration; None where no record says so.
    """
    widen_head(model)
    if calibrated is not None and arithmetic_of(model)["weights"] == calibrated["weights"]:
        use_arithmetic(model, calibrated)
    check_arithmetic(arithmetic_of(model), calibrated)


def _dtype_name(dtype: torch.dtype) -> str:
    """Return PyTorch's name of a number format: "bfloat16"."""
    return str(dtype).removeprefix("torch.")
