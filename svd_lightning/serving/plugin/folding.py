"""Two models as one: rows for everything that works token by token, heads for attention.

A forward of T tokens runs on 2T rows, the tuned model's and then the base's. Attention alone looks from token to
token. There the halves stand side by side as heads, twice the query heads and twice the key and value heads, so
each half attends to its own keys and values. vLLM sees one model with a cache of double width: its scheduler,
paged cache, prefix caching and preemption stay as they are.
"""

from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.model_executor.layers.attention import Attention


def fold(rows: Tensor) -> Tensor:
    """Put the second half of the rows beside the first, [2T, D] → [T, 2D]."""
    return torch.cat(rows.chunk(2, dim=0), dim=-1)


def unfold(columns: Tensor) -> Tensor:
    """Put the second half of the columns below the first, [T, 2D] → [2T, D]."""
    return torch.cat(columns.chunk(2, dim=-1), dim=0)


class FoldedAttention(Attention):
    """Attention of both halves at once: [2T, heads · size] in and out, T tokens of twice the heads within."""

    @classmethod
    def like(cls, plain: Attention, vllm_config: VllmConfig) -> "FoldedAttention":
        """Return attention with twice the heads of vLLM's own, in its place in the forward context."""
        vllm_config.compilation_config.static_forward_context.pop(plain.layer_name)
        return cls(
            2 * plain.num_heads,
            plain.head_size,
            plain.impl.scale,
            num_kv_heads=2 * plain.num_kv_heads,
            cache_config=vllm_config.cache_config,
            quant_config=plain.quant_config,
            logits_soft_cap=getattr(plain.impl, "logits_soft_cap", None) or None,
            per_layer_sliding_window=plain.sliding_window,
            attn_type=plain.attn_type,
            prefix=plain.layer_name,
        )

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **kwargs: Any) -> Tensor:
        """Return what both halves attend to."""
        return unfold(super().forward(fold(query), fold(key), fold(value), **kwargs))


def fold_decoder(decoder: Any, vllm_config: VllmConfig) -> None:
    """Make a decoder run on doubled rows, from its first layer to its last norm, [T, H] → [T, 2H].

    Args:
        decoder: vLLM's, with `layers` that take positions and states first, and a `norm`.
        vllm_config: its head counts become those of the folded attention.
    """
    for name, part in list(decoder.named_modules()):
        if isinstance(part, Attention):
            parent, _, last = name.rpartition(".")
            setattr(decoder.get_submodule(parent), last, FoldedAttention.like(part, vllm_config))
    first, *others = decoder.layers
    first.register_forward_pre_hook(_double_both)
    for layer in others:
        layer.register_forward_pre_hook(_double_positions)
    decoder.norm.register_forward_hook(_fold_states)
    model = vllm_config.model_config  # some attention kernels plan by these numbers
    counts, config = model.model_arch_config, model.hf_text_config
    counts.total_num_attention_heads = 2 * config.num_attention_heads
    counts.total_num_kv_heads = 2 * config.num_key_value_heads


def _double_both(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    positions, states, *rest = args
    return torch.cat([positions, positions]), torch.cat([states, states]), *rest


def _double_positions(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    positions, *rest = args
    return torch.cat([positions, positions]), *rest


def _fold_states(norm: nn.Module, args: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    states, residual = output
    return fold(states), residual
