"""The LM head's input under adapter on and off, and the head itself, without [B, T, V] logits."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from svd_lightning.errors import InputError

Head = Callable[[Tensor], Tensor]
"""Final hidden states [N, H] → the model's own logits [N, V]."""

ModuleT = TypeVar("ModuleT", bound=nn.Module)

_REWRITES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""LoRA initialisations that move part of the base weights into the adapter: off is then not the base."""


def adapter_layers(peft_model: PeftModel) -> list[nn.Module]:
    """The modules that carry the adapter and can be switched off; empty for prompt learning alone."""
    return [m for m in peft_model.modules() if isinstance(m, BaseTunerLayer | AuxiliaryTrainingWrapper)]


def check_adapter(peft_model: PeftModel) -> None:
    """Refuse models whose base distribution cannot be had by leaving the adapter out.

    Raises:
        InputError: in training mode; for none or several active adapters; for trained biases; for merged or
            switched-off adapters; for initialisations that rewrite the base; for adapters without an off switch.
    """
    if not isinstance(peft_model, PeftModel):
        raise InputError(
            f"peft_model: expected a peft.PeftModel, got {type(peft_model).__name__}; wrap the base model with "
            "peft.get_peft_model or PeftModel.from_pretrained"
        )
    if peft_model.training:
        raise InputError("peft_model: expected evaluation mode, got training mode; call .eval() first")
    active = list(peft_model.active_adapters)
    if len(active) != 1:
        raise InputError(
            f"peft_model: expected one active adapter, got {active}; select one with .set_adapter(name)"
        )
    _check_config(peft_model.active_peft_config)
    layers = adapter_layers(peft_model)
    if any(getattr(layer, "merged", False) for layer in layers):
        raise InputError(
            "peft_model: expected an adapter beside the base weights, got a merged one; call .unmerge_adapter()"
        )
    if peft_model._adapters_disabled or any(layer.disable_adapters for layer in layers):
        raise InputError(
            "peft_model: expected the adapter switched on, got it switched off; leave disable_adapter() first"
        )
    if not layers and not peft_model.active_peft_config.is_prompt_learning:
        raise InputError(
            f"peft_model: expected an adapter that can be switched off layer by layer, got "
            f"{type(peft_model.active_peft_config).__name__}; use LoRA, IA3 or prompt learning"
        )


def _check_config(config: Any) -> None:
    if getattr(config, "bias", "none") != "none":
        raise InputError(
            f"peft_config.bias: expected 'none', got {config.bias!r}: the base model's biases were trained, so "
            "switching the adapter off does not restore the base; train an adapter with bias='none'"
        )
    init = getattr(config, "init_lora_weights", None)
    if isinstance(init, str) and init.lower().startswith(_REWRITES_BASE):
        raise InputError(
            f"peft_config.init_lora_weights: {init!r} rewrites the base weights, so switching the adapter off "
            "does not restore the base; convert the adapter to plain LoRA (peft's save_pretrained with "
            "path_initial_model_for_weight_conversion) or train with the default initialisation"
        )


@contextmanager
def adapter_off(peft_model: PeftModel) -> Iterator[PreTrainedModel]:
    """Within the context the yielded causal LM is the base model; the former state returns afterwards.

    Flips the flag that every adapter layer reads: unlike `PeftModel.disable_adapter` it costs no scan for
    the adapter's status and leaves `requires_grad` alone, which sharded parameters do not like to change.

    Raises:
        InputError: as `check_adapter`.
    """
    check_adapter(peft_model)
    with layers_off(adapter_layers(peft_model)):
        yield peft_model.get_base_model()


@contextmanager
def layers_off(layers: list[nn.Module]) -> Iterator[None]:
    """Within the context the given adapter layers pass their input to the base layer."""
    before = [layer._disable_adapters for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = True  # type: ignore[assignment]
        assert all(layer.disable_adapters for layer in layers), "an adapter layer ignores its off switch"
        yield
    finally:
        for layer, was_off in zip(layers, before, strict=True):
            layer._disable_adapters = was_off


def tuned_hidden_states(
    peft_model: PeftModel, input_ids: Tensor, attention_mask: Tensor, *, shared_columns: int = 0
) -> Tensor:
    """Final hidden states of the tuned model, columns of virtual tokens dropped.

    Args:
        peft_model: any PEFT model around a causal LM of transformers, in evaluation mode.
        input_ids: int64 [B, T], padded on either side.
        attention_mask: [B, T], 0 on padding.
        shared_columns: leading tokens that all rows have in common (`right_padded` rows); they are computed
            once and their cache repeated. 0 computes every row whole.

    Returns:
        The LM head's input in the model's dtype, [B, T, H]; undefined on padding.

    Raises:
        InputError: as `check_adapter`.
    """
    check_adapter(peft_model)
    return _hidden_states(peft_model, peft_model.get_base_model(), input_ids, attention_mask, shared_columns)


def base_hidden_states(
    peft_model: PeftModel, input_ids: Tensor, attention_mask: Tensor, *, shared_columns: int = 0
) -> Tensor:
    """Final hidden states of the base model, adapter and virtual tokens out; else as `tuned_hidden_states`."""
    with adapter_off(peft_model) as base_model:
        return _hidden_states(base_model, base_model, input_ids, attention_mask, shared_columns)


def tuned_head(peft_model: PeftModel) -> Head:
    """The tuned model's head: hidden states [N, H] → its logits [N, V], soft caps and scales included."""
    return lambda hidden: _head_logits(peft_model.get_base_model(), hidden)


def base_head(peft_model: PeftModel) -> Head:
    """The base model's head, whatever the adapter does to it: hidden states [N, H] → logits [N, V]."""

    def head(hidden: Tensor) -> Tensor:
        with adapter_off(peft_model) as base_model:
            return _head_logits(base_model, hidden)

    return head


def shallow_copy(module: ModuleT, cls: type[ModuleT] | None = None) -> ModuleT:
    """A module with the same children, parameters and hooks, whose attributes can be replaced one by one.

    `copy.copy` would share the dictionary of children, and it constructs anew under FSDP2.
    """
    clone = object.__new__(cls or type(module))
    clone.__dict__.update(module.__dict__)
    clone._modules = dict(module._modules)
    clone.__dict__.pop("forward", None)  # accelerate binds a forward to the original
    return clone


def right_padded(attention_mask: Tensor) -> Tensor:
    """Column order that moves each row's tokens to the front: [B, T] → int64 [B, T].

    >>> right_padded(torch.tensor([[0, 1, 1]])).tolist()
    [[1, 2, 0]]
    """
    return attention_mask.bool().int().argsort(dim=1, descending=True, stable=True)


def _hidden_states(
    caller: PeftModel | PreTrainedModel,
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    shared_columns: int,
) -> Tensor:
    """What the decoder hands to the head when `caller` is called: [B, T] → [B, T, H].

    Rows go in padded on the right, where position ids need no correction: PEFT drops the ones it is given.
    """
    order = right_padded(attention_mask)
    ids, mask = input_ids.gather(1, order), attention_mask.gather(1, order)
    if shared_columns:
        hidden = _after_shared_columns(caller, model, ids, mask, shared_columns)
    else:
        hidden, _ = _call(caller, model, input_ids=ids, attention_mask=mask, use_cache=False)
        hidden = hidden[:, -ids.shape[1] :]
    return torch.zeros_like(hidden).scatter(1, order.unsqueeze(-1).expand_as(hidden), hidden)


def _after_shared_columns(
    caller: PeftModel | PreTrainedModel, model: PreTrainedModel, ids: Tensor, mask: Tensor, shared: int
) -> Tensor:
    """One row of shared columns through `caller` (which adds virtual tokens), the rest on its repeated cache."""
    rows = ids.shape[0]
    first, cache = _call(
        caller, model, input_ids=ids[:1, :shared], attention_mask=mask[:1, :shared], use_cache=True
    )
    cache.batch_repeat_interleave(rows)
    seen = mask.new_ones(rows, int(cache.get_seq_length()))
    rest, _ = _call(
        model,
        model,
        input_ids=ids[:, shared:],
        attention_mask=torch.cat([seen, mask[:, shared:]], dim=1),
        past_key_values=cache,
        use_cache=True,
    )
    return torch.cat([first[:, -shared:].expand(rows, -1, -1), rest], dim=1)


def _call(caller: PeftModel | PreTrainedModel, model: PreTrainedModel, **inputs: Any) -> tuple[Tensor, Any]:
    """The decoder's last hidden states and the cache of one forward of `caller`."""
    captured: list[Tensor] = []
    hook = _decoder(model)[1].register_forward_hook(lambda module, args, output: captured.append(output[0]))
    keep = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    try:
        outputs = caller(**inputs, **keep)
    finally:
        hook.remove()
    return captured[-1], outputs.get("past_key_values")


def _decoder(model: PreTrainedModel) -> tuple[list[str], nn.Module]:
    """Path and module of the part of a causal LM that ends before the head."""
    decoder = model.get_decoder()
    for name, module in model.named_modules():
        if module is decoder and name:
            return name.split("."), module
    raise InputError(
        f"model: expected a causal language model with a decoder and a head, got {type(model).__name__}"
    )


def _head_logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Run the model's own forward on a shallow copy whose decoder answers with the given states."""
    path, _ = _decoder(model)
    states = hidden.unsqueeze(0)
    clone = _with_submodule(model, path, _GivenStates(states))
    return clone(inputs_embeds=states, use_cache=False).logits.squeeze(0)


def _with_submodule(module: nn.Module, path: list[str], replacement: nn.Module) -> nn.Module:
    """A shallow copy of a module tree in which one submodule is another."""
    first, *rest = path
    clone = shallow_copy(module)
    child = module.get_submodule(first)
    clone._modules[first] = _with_submodule(child, rest, replacement) if rest else replacement
    return clone


class _GivenStates(nn.Module):
    """Stands for a decoder whose final hidden states are known."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states

    def forward(self, *args: object, **kwargs: object) -> BaseModelOutputWithPast:
        return _StatesOnly(last_hidden_state=self.states)


class _StatesOnly(BaseModelOutputWithPast):
    """A decoder output without anything else: router logits, cross attentions and the like are None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
