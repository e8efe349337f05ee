"""The adapter at another scale: what it does to the base, times s."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from peft import IA3Config, LoraConfig
from peft.tuners.ia3.layer import IA3Layer
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn

from svd_lightning.errors import InputError
from svd_lightning.models.switch import AdaptedModel, active_adapters, active_config, adapter_layers


def unscalable(peft_model: AdaptedModel) -> str | None:
    """Return what keeps the adapter's effect from being multiplied, in words; None where nothing does.

    Plain LoRA (rsLoRA and other ranks and alphas too) and IA3 can be; what they leave as it is cannot: a head or
    tokens of the adapter's own, trained biases, DoRA's magnitudes.
    """
    config, active = active_config(peft_model), active_adapters(peft_model)[0]
    if type(config) not in (LoraConfig, IA3Config):
        return type(config).__name__
    if getattr(config, "bias", "none") != "none":
        return "trained biases"
    for layer in adapter_layers(peft_model):
        if not isinstance(layer, LoraLayer | IA3Layer):
            return type(layer).__name__
        if isinstance(layer, LoraLayer) and active in layer.lora_variant:
            return f"LoRA with {type(layer.lora_variant[active]).__name__}"
    return None


def check_scalable(peft_model: AdaptedModel) -> None:
    """Raise InputError unless the adapter's effect can be multiplied."""
    if (found := unscalable(peft_model)) is not None:
        raise InputError(
            f"adapter: expected plain LoRA or IA3, whose effect on the base can be multiplied, got {found}; leave "
            "its scale at 1"
        )


@contextmanager
def scaled(peft_model: AdaptedModel, scale: float) -> Iterator[None]:
    """Multiply what the active adapter does within the context; afterwards it is exactly as it was.

    LoRA adds s times what it adds; IA3 multiplies by 1 + s·(l − 1). No parameter changes, so sharded ones serve
    too. PEFT's own `scale_layer` and `unscale_layer` would leave a rounding error, or forget a scale that the
    model had before.

    Raises:
        InputError: for an adapter whose effect cannot be multiplied (`unscalable`).
    """
    check_scalable(peft_model)
    with layers_scaled(adapter_layers(peft_model), active_adapters(peft_model)[0], scale):
        yield


@contextmanager
def layers_scaled(layers: Sequence[nn.Module], adapter: str, scale: float) -> Iterator[None]:
    """Multiply what an adapter does in the given layers within the context; see `scaled`."""
    lora = [one for one in layers if isinstance(one, LoraLayer) and adapter in one.scaling]
    ia3 = [one for one in layers if isinstance(one, IA3Layer)]
    before = [one.scaling[adapter] for one in lora]
    vectors = [one.__dict__.get("ia3_l") for one in ia3]
    try:
        for one in lora:
            one.scaling[adapter] *= scale
        for one in ia3:
            one.__dict__["ia3_l"] = _ScaledVectors(one.ia3_l, scale)  # found before the module of this name
        yield
    finally:
        for one, scaling in zip(lora, before, strict=True):
            one.scaling[adapter] = scaling
        for one, outer in zip(ia3, vectors, strict=True):
            one.__dict__.pop("ia3_l", None)
            if outer is not None:
                one.__dict__["ia3_l"] = outer


def scaled_vector(vector: Tensor, scale: float) -> Tensor:
    """Return IA3's vector l at a scale, 1 + s·(l − 1)."""
    return 1.0 + scale * (vector - 1.0)


class _ScaledVectors(dict):
    """IA3's vectors by adapter, each scaled when it is read: sharded ones are whole only within a forward."""

    def __init__(self, vectors: nn.ParameterDict, scale: float) -> None:
        super().__init__(dict.fromkeys(vectors.keys()))
        self._vectors, self._scale = vectors, scale

    def __getitem__(self, adapter: str) -> Tensor:
        return scaled_vector(self._vectors[adapter], self._scale)
