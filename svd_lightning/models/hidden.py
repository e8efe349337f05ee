"""Hidden states of the tuned and the base model, their heads, and the decoder layers; no [B, T, V] logits."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import LinearAttentionCacheLayerMixin
from transformers.modeling_outputs import BaseModelOutputWithPast

from svd_lightning.errors import InputError
from svd_lightning.models.arithmetic import widen_head
from svd_lightning.models.switch import adapter_layers, adapter_off, check_adapter, layers_off, shallow_copy

Head = Callable[[Tensor], Tensor]
"""Final hidden states [N, H] → the model's own logits [N, V]."""


class SharedPrompts(NamedTuple):
    """What the rows of a batch have in common: rows of one group begin with the same tokens."""

    columns: int
    """How many, at least 1 and fewer than all, when the rows are padded on the right."""
    group: Tensor
    """The group of each row, int64 [B]: 0, 1, … in order."""


def tuned_hidden_states(
    peft_model: PeftModel, input_ids: Tensor, attention_mask: Tensor, *, shared: SharedPrompts | None = None
) -> Tensor:
    """Return the final hidden states of the tuned model, without the columns of virtual tokens.

    Args:
        peft_model: any PEFT model around a causal LM of transformers, in evaluation mode.
        input_ids: int64 [B, T], padded on either side.
        attention_mask: [B, T], 0 on padding.
        shared: the tokens with which rows begin alike; they are computed once for each group, and their cache
            repeated, unless the model cannot go on from a cache by several tokens. None computes every row whole.

    Returns:
        The LM head's input in the model's dtype, [B, T, H]; undefined on padding.

    Raises:
        InputError: as `check_adapter`.
    """
    check_adapter(peft_model)
    return _hidden_states(peft_model, peft_model.get_base_model(), input_ids, attention_mask, shared)


def base_hidden_states(
    peft_model: PeftModel, input_ids: Tensor, attention_mask: Tensor, *, shared: SharedPrompts | None = None
) -> Tensor:
    """Return the final hidden states of the base model without the adapter; see `tuned_hidden_states`."""
    with adapter_off(peft_model) as base_model:
        return _hidden_states(base_model, base_model, input_ids, attention_mask, shared)


def tuned_head(peft_model: PeftModel) -> Head:
    """Return the tuned model's head: hidden states [N, H] → its logits [N, V], soft caps and scales included."""
    return lambda hidden: _head_logits(peft_model.get_base_model(), hidden)


def base_head(peft_model: PeftModel) -> Head:
    """Return the base model's head without the adapter: hidden states [N, H] → its logits [N, V].

    It looks for the adapter's layers once, and switches off those outside the decoder, whose states are given:
    none, unless the head itself is adapted.

    Raises:
        InputError: as `check_adapter`.
    """
    check_adapter(peft_model)
    model = peft_model.get_base_model()
    inside = set(_decoder(model)[1].modules())
    layers = [layer for layer in adapter_layers(peft_model) if layer not in inside]

    def head(hidden: Tensor) -> Tensor:
        with layers_off(layers):
            return _head_logits(model, hidden)

    return head


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """Return the repeated layers of a causal LM's decoder: the longest list of modules in it.

    Raises:
        InputError: for a decoder without such a list.
    """
    lists = [list(part) for part in model.get_decoder().modules() if isinstance(part, nn.ModuleList)]
    if not lists:
        raise InputError(f"model: expected a decoder made of layers, got {type(model).__name__}")
    return max(lists, key=len)


def right_padded(attention_mask: Tensor) -> Tensor:
    """Return the column order that moves each row's tokens to the front: [B, T] → int64 [B, T].

    >>> right_padded(torch.tensor([[0, 1, 1]])).tolist()
    [[1, 2, 0]]
    """
    return attention_mask.bool().int().argsort(dim=1, descending=True, stable=True)


def _hidden_states(
    caller: PeftModel | PreTrainedModel,
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    shared: SharedPrompts | None,
) -> Tensor:
    """Return what the decoder gives to the head when `caller` runs: [B, T] → [B, T, H].

    Rows are padded on the right first: then position ids need no correction (PEFT drops given ones).
    """
    order = right_padded(attention_mask)
    ids, mask = input_ids.gather(1, order), attention_mask.gather(1, order)
    if shared is not None and _goes_on(model):
        hidden = _after_shared_prompts(caller, model, ids, mask, shared)
    else:
        hidden, _ = _call(caller, model, input_ids=ids, attention_mask=mask, use_cache=False)
        hidden = hidden[:, -ids.shape[1] :]
    return torch.zeros_like(hidden).scatter(1, order.unsqueeze(-1).expand_as(hidden), hidden)


def _goes_on(model: PreTrainedModel) -> bool:
    """Return whether a model can go on from a cache by several tokens: recurrences cannot, nor some old models."""
    if model._is_stateful or "past_key_values" not in inspect.signature(model.forward).parameters:
        return False
    layers = DynamicCache(config=model.config).layers
    return not any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers)


def _after_shared_prompts(
    caller: PeftModel | PreTrainedModel, model: PreTrainedModel, ids: Tensor, mask: Tensor, shared: SharedPrompts
) -> Tensor:
    """Run the first row of each group through `caller` (which adds virtual tokens), and the rest on its cache."""
    columns, group = shared
    first = torch.searchsorted(group, torch.arange(int(group[-1]) + 1, device=group.device))
    prompts, cache = _call(
        caller, model, input_ids=ids[first, :columns], attention_mask=mask[first, :columns], use_cache=True
    )
    cache.batch_select_indices(group)
    seen = mask.new_ones(len(ids), int(cache.get_seq_length()))
    rest, _ = _call(
        model,
        model,
        input_ids=ids[:, columns:],
        attention_mask=torch.cat([seen, mask[:, columns:]], dim=1),
        past_key_values=cache,
        use_cache=True,
    )
    return torch.cat([prompts[group, -columns:], rest], dim=1)


def _call(caller: PeftModel | PreTrainedModel, model: PreTrainedModel, **inputs: Any) -> tuple[Tensor, Any]:
    """Return the decoder's last hidden states and the cache of one forward of `caller`."""
    captured: list[Tensor] = []
    hook = _decoder(model)[1].register_forward_hook(lambda module, args, output: captured.append(output[0]))
    takes_places = "logits_to_keep" in inspect.signature(model.forward).parameters
    keep = {"logits_to_keep": torch.zeros(0, dtype=torch.int64)} if takes_places else {}  # nothing for the head
    try:
        outputs = caller(**inputs, **keep)
    finally:
        hook.remove()
    return captured[-1], outputs.get("past_key_values")


def _decoder(model: PreTrainedModel) -> tuple[list[str], nn.Module]:
    """Return path and module of the part of a causal LM that ends before the head."""
    decoder = model.get_decoder()
    if decoder is model or decoder is model.get_output_embeddings():  # Llama 4, ModernBERT
        decoder = getattr(model, "model", model)
    for name, module in model.named_modules():
        if module is decoder and name:
            return name.split("."), module
    raise InputError(
        f"model: expected a causal language model with a decoder and a head, got {type(model).__name__}"
    )


def _head_logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Run the model's own forward on a shallow copy whose decoder answers with the given states, in float32."""
    widen_head(model, copy_weights=False)
    path, decoder = _decoder(model)
    states = hidden.unsqueeze(0)
    clone = _with_submodule(model, path, _GivenStates(decoder, states))
    return clone(inputs_embeds=states, use_cache=False).logits.squeeze(0)


def _with_submodule(module: nn.Module, path: list[str], replacement: nn.Module) -> nn.Module:
    """Copy a module tree shallowly, with another submodule in one place."""
    first, *rest = path
    clone = shallow_copy(module)
    child = module.get_submodule(first)
    clone._modules[first] = _with_submodule(child, rest, replacement) if rest else replacement
    return clone


class _GivenStates(nn.Module):
    """Stands in for a decoder whose final hidden states are known; all but its forward is the decoder's."""

    def __init__(self, decoder: nn.Module, states: Tensor) -> None:
        super().__init__()
        self.__dict__.update(decoder=decoder, states=states)  # not as a child: hooks of sharding find none here

    def __getattr__(self, name: str) -> Any:
        return getattr(self.decoder, name)  # Falcon-H1 keeps the head's scale there

    def forward(self, *args: object, **kwargs: object) -> BaseModelOutputWithPast:
        return _StatesOnly(last_hidden_state=self.states)


class _StatesOnly(BaseModelOutputWithPast):
    """A decoder output without anything else: router logits, cross attentions and the like are None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
