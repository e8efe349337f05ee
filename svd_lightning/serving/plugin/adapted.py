"""The adapter inside vLLM's linear layers: on the first rows of their inputs, which are the tuned model's.

vLLM joins some projections into one layer and splits all of them over tensor-parallel ranks. An adapter's tensors
are cut here as vLLM cuts the weights: outputs of q, k, v, gate and up, inputs of o and down.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.linear import LinearBase, LinearMethodBase, QKVParallelLinear, RowParallelLinear

JOINED = {
    "q_proj": ("qkv_proj", 0),
    "k_proj": ("qkv_proj", 1),
    "v_proj": ("qkv_proj", 2),
    "gate_proj": ("gate_up_proj", 0),
    "up_proj": ("gate_up_proj", 1),
}
"""Projection → vLLM's layer that holds it, and which part of the layer it is; others are layers of their own."""


class LoraPart(nn.Module):
    """y + s·B A x on some columns of y, in PEFT's order of operations."""

    a: Tensor
    b: Tensor
    scaling: Tensor

    def __init__(self, a: Tensor, b: Tensor, scaling: Tensor, columns: slice) -> None:
        super().__init__()
        self.columns = columns
        self.register_buffer("scaling", scaling.float(), persistent=False)  # a number would be part of a graph
        self.register_buffer("a", a, persistent=False)
        self.register_buffer("b", b, persistent=False)

    def before(self, x: Tensor, tuned: int) -> Tensor:
        """Return the input of the base's layer: x itself."""
        return x

    def after(self, y: Tensor, x: Tensor, tuned: int) -> Tensor:
        """Add to the tuned rows of y, [R, out]; x is [R, in]."""
        update = (x[:tuned].to(self.a.dtype) @ self.a.T) @ self.b.T * self.scaling
        y[:tuned, self.columns] = y[:tuned, self.columns] + update
        return y


class ScaledInputs(nn.Module):
    """IA3 of a feed-forward layer: x ⊙ l."""

    vector: Tensor

    def __init__(self, vector: Tensor) -> None:
        super().__init__()
        self.register_buffer("vector", vector, persistent=False)

    def before(self, x: Tensor, tuned: int) -> Tensor:
        """Return the inputs with the tuned rows scaled, [R, in]."""
        scaled = (x[:tuned].to(self.vector.dtype) * self.vector).to(x.dtype)
        return torch.cat([scaled, x[tuned:]])

    def after(self, y: Tensor, x: Tensor, tuned: int) -> Tensor:
        """Return y itself."""
        return y


class ScaledOutputs(nn.Module):
    """IA3 of another layer: y ⊙ l on some columns of y."""

    vector: Tensor

    def __init__(self, vector: Tensor, columns: slice) -> None:
        super().__init__()
        self.columns = columns
        self.register_buffer("vector", vector, persistent=False)

    def before(self, x: Tensor, tuned: int) -> Tensor:
        """Return x itself."""
        return x

    def after(self, y: Tensor, x: Tensor, tuned: int) -> Tensor:
        """Scale the tuned rows of y, [R, out]."""
        y[:tuned, self.columns] = y[:tuned, self.columns] * self.vector
        return y


class AdaptedLinear(LinearMethodBase):
    """Stands before a layer's own method, quantised or not, before the sum over tensor-parallel ranks.

    Args:
        inner: the layer's own method.
        halves: 2 where rows are doubled and the adapter acts on the first half of them, 1 where it acts on all.
    """

    def __init__(self, inner: LinearMethodBase, halves: int) -> None:
        self.inner, self.halves = inner, halves

    def create_weights(self, layer: nn.Module, *args: object, **kwargs: object) -> None:
        """Never needed: the layer has its weights."""
        raise NotImplementedError

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        """Let the layer's own method prepare its weights."""
        self.inner.process_weights_after_loading(layer)

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return this rank's share of the layer's outputs, [R, in] → [R, out]."""
        tuned = x.shape[0] // self.halves
        inputs = x
        for part in layer.adapter:
            inputs = part.before(inputs, tuned)
        outputs = self.inner.apply(layer, inputs, bias)
        for part in layer.adapter:
            outputs = part.after(outputs, x, tuned)
        return outputs


def attach(model: nn.Module, tensors: Mapping[str, Tensor], *, halves: int) -> None:
    """Attach an adapter to vLLM's layers.

    Args:
        model: vLLM's causal LM.
        tensors: `lora_a` [r, in], `lora_b` [out, r] and `scaling` [], or `ia3_inputs` [in], or `ia3_outputs`
            [out], after the name of a projection as transformers has it.
        halves: as `AdaptedLinear` has it.
    """
    projections: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        projection, _, kind = name.rpartition(".")
        projections.setdefault(projection, {})[kind] = tensor
    parts: dict[LinearBase, list[nn.Module]] = {}
    for projection, own in projections.items():
        parent, _, last = projection.rpartition(".")
        name, number = JOINED.get(last, (last, 0))
        layer = model.get_submodule(f"{parent}.{name}")
        assert isinstance(layer, LinearBase), projection
        parts.setdefault(layer, []).append(_part(layer, number, own))
    for layer, own_parts in parts.items():
        layer.adapter = nn.ModuleList(own_parts)
        if not isinstance(layer.quant_method, AdaptedLinear):  # weights may be loaded again
            layer.quant_method = AdaptedLinear(layer.quant_method, halves)


def _part(layer: LinearBase, number: int, own: Mapping[str, Tensor]) -> nn.Module:
    """Return this rank's share of one projection's adapter."""
    if isinstance(layer, RowParallelLinear):
        columns = slice(0, layer.output_size)
        if "lora_a" in own:
            return LoraPart(_inputs(layer, own["lora_a"]), own["lora_b"], own["scaling"], columns)
        if "ia3_inputs" in own:
            return ScaledInputs(_inputs(layer, own["ia3_inputs"]))
        return ScaledOutputs(own["ia3_outputs"], columns)
    sizes = layer.output_partition_sizes
    columns = slice(sum(sizes[:number]), sum(sizes[: number + 1]))
    if "lora_a" in own:
        return LoraPart(own["lora_a"], _outputs(layer, number, own["lora_b"]), own["scaling"], columns)
    if "ia3_inputs" in own:
        return ScaledInputs(own["ia3_inputs"])
    return ScaledOutputs(_outputs(layer, number, own["ia3_outputs"]), columns)


def _inputs(layer: RowParallelLinear, tensor: Tensor) -> Tensor:
    """Return this rank's share of a tensor [..., in]."""
    size = layer.input_size_per_partition
    return tensor.narrow(-1, layer.tp_rank * size, size).contiguous()


def _outputs(layer: LinearBase, number: int, tensor: Tensor) -> Tensor:
    """Return this rank's share of a tensor [out, ...]; several ranks may hold the same key and value heads."""
    size = layer.output_partition_sizes[number]
    copies = layer.num_kv_head_replicas if isinstance(layer, QKVParallelLinear) and number else 1
    return tensor.narrow(0, layer.tp_rank // copies * size, size).contiguous()
