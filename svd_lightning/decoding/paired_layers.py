"""Adapter layers on paired rows: the first half of dimension 0 is adapted, the second is the base.

The halves are the same for [2B, T, H] and for [2B·T, H], as models give them that flatten their tokens.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType

import torch
from peft.tuners.ia3.layer import Linear as IA3Linear
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn

PairedForward = Callable[..., Tensor]


def paired_forward(layer: nn.Module) -> PairedForward | None:
    """Return the forward of an adapter layer on paired rows, bound to the layer; None if it has none."""
    fits, forward = _PAIRED.get(type(layer), (None, None))
    return MethodType(forward, layer) if fits and forward and fits(layer) else None


@contextmanager
def installed(forwards: list[tuple[nn.Module, PairedForward]]) -> Iterator[None]:
    """Make the layers use the given forwards within the context; restore their own afterwards."""
    before = [layer.__dict__.get("forward") for layer, _ in forwards]
    try:
        for layer, forward in forwards:
            layer.__dict__["forward"] = forward
        yield
    finally:
        for (layer, _), previous in zip(forwards, before, strict=True):
            layer.__dict__.pop("forward", None)
            if previous is not None:
                layer.__dict__["forward"] = previous


def _lora_linear(self: LoraLinear, x: Tensor, *args: object, **kwargs: object) -> Tensor:
    """y = W x everywhere, plus s·B A x on the first half, in PEFT's order of operations, so that bf16 agrees."""
    result = self.base_layer(x, *args, **kwargs)
    half = x.shape[0] // 2
    for name in self.active_adapters:
        if name in self.lora_A.keys():  # noqa: SIM118 (a ModuleDict under torch.compile)
            lora_a, lora_b = self.lora_A[name], self.lora_B[name]
            update = lora_b(lora_a(self._cast_input_dtype(x[:half], lora_a.weight.dtype))) * self.scaling[name]
            result[:half] = result[:half] + update
    return result


def _ia3_linear(self: IA3Linear, x: Tensor, *args: object, **kwargs: object) -> Tensor:
    """Multiply the first half by l: of a feed-forward layer's input, of another layer's output."""
    half = x.shape[0] // 2
    scales = [self.ia3_l[name].flatten() for name in self.active_adapters if name in self.ia3_l]
    if not scales:
        return self.base_layer(x, *args, **kwargs)
    (scale,) = scales
    if self.is_feedforward:
        scaled = (x[:half].to(scale.dtype) * scale).to(x.dtype)
        return self.base_layer(torch.cat([scaled, x[half:]]), *args, **kwargs)
    result = self.base_layer(x, *args, **kwargs)
    result[:half] = result[:half] * scale
    return result


def _saved_module(self: ModulesToSaveWrapper, x: Tensor, *args: object, **kwargs: object) -> Tensor:
    name = self.active_adapters[0]
    if name not in self.modules_to_save:
        return self.original_module(x, *args, **kwargs)
    tuned, base = x.chunk(2)
    halves = self.modules_to_save[name](tuned, *args, **kwargs), self.original_module(base, *args, **kwargs)
    return torch.cat(halves)


def _is_plain_lora(layer: LoraLinear) -> bool:
    return not any(name in layer.lora_variant for name in layer.active_adapters)


def _is_leaf(layer: ModulesToSaveWrapper) -> bool:
    """Return whether the module takes one tensor; larger ones also take masks and positions, not halved here."""
    return not any(True for _ in layer.original_module.children())


_PAIRED: dict[type, tuple[Callable[..., bool], Callable[..., Tensor]]] = {
    LoraLinear: (_is_plain_lora, _lora_linear),
    IA3Linear: (lambda layer: True, _ia3_linear),
    ModulesToSaveWrapper: (_is_leaf, _saved_module),
}
"""Exact layer type → (does it fit this instance, its paired forward); subclasses may compute something else."""
