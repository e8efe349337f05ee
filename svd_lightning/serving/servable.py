"""Which models vLLM serves steered, and what their adapters are made of."""

import re

import torch
from peft import PeftModel
from peft.tuners.ia3.layer import Linear as IA3Linear
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import nn

from svd_lightning.decoding.paired_layers import paired_forward
from svd_lightning.errors import InputError
from svd_lightning.models.backbone import Backbone
from svd_lightning.models.scale import check_scalable, scaled_vector
from svd_lightning.models.switch import active_adapters, adapter_layers, check_adapter
from svd_lightning.serving.recipe import ADAPTER, ARCHITECTURES, Tensors

_LINEAR = re.compile(r"model\.layers\.\d+\.(self_attn\.[qkvo]|mlp\.(gate|up|down))_proj")
_EXPECTED = "expected plain LoRA or IA3 on the q, k, v, o, gate, up and down projections"
_REMEDY = "decode this run with `svd-lightning predict`, or export it without --for"


def check_servable(peft_model: PeftModel, backbone: Backbone) -> None:
    """Raise InputError for a base or an adapter that the plugin does not know."""
    check_adapter(peft_model)
    base, name = peft_model.get_base_model(), active_adapters(peft_model)[0]
    if (found := type(base).__name__) not in ARCHITECTURES:
        raise InputError(f"model: vLLM serves {', '.join(ARCHITECTURES)} steered, got {found}")
    if backbone.load_in_4bit or backbone.load_in_8bit:
        raise InputError("backbone: expected weights as they are stored, got a base that is quantised on loading")
    places = {module: place for place, module in base.named_modules()}
    layers = adapter_layers(peft_model)
    if not layers:
        raise InputError(f"adapter: {_EXPECTED}, got {type(peft_model.active_peft_config).__name__}; {_REMEDY}")
    for layer in layers:
        odd = type(layer) not in (LoraLinear, IA3Linear) or paired_forward(layer) is None
        if odd or (isinstance(layer, LoraLinear) and name in layer.lora_B and layer.lora_B[name].bias is not None):
            raise InputError(f"adapter: {_EXPECTED}, got {type(layer).__name__} at {places[layer]}; {_REMEDY}")
        if not _LINEAR.fullmatch(places[layer]):
            raise InputError(f"adapter: {_EXPECTED} of its layers, got one at {places[layer]}; {_REMEDY}")


def adapter_tensors(peft_model: PeftModel, scale: float) -> Tensors:
    """Return what the active adapter has in each layer, at a scale, by the names that it has among the weights."""
    if scale != 1.0:
        check_scalable(peft_model)
    active, found = active_adapters(peft_model)[0], {}
    for place, layer in peft_model.get_base_model().named_modules():
        for kind, tensor in _layer_tensors(layer, active, scale).items():
            found[f"{ADAPTER}{place}.{kind}"] = tensor.detach().cpu()
    return found


def _layer_tensors(layer: nn.Module, active: str, scale: float) -> Tensors:
    if isinstance(layer, LoraLinear) and active in layer.lora_A:
        pair = {"lora_a": layer.lora_A[active].weight, "lora_b": layer.lora_B[active].weight}
        return pair | {"scaling": torch.tensor(layer.scaling[active] * scale, dtype=torch.float64)}
    if isinstance(layer, IA3Linear) and active in layer.ia3_l:
        vector = layer.ia3_l[active].flatten()
        vector = vector if scale == 1.0 else scaled_vector(vector, scale)
        return {"ia3_inputs" if layer.is_feedforward else "ia3_outputs": vector}
    return {}
