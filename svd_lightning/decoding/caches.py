"""What a model keeps of the text so far, and which models keep it where a pair can be made of it."""

import inspect
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from transformers import Cache, EncoderDecoderCache, GenerationConfig, PreTrainedModel

from svd_lightning.errors import InputError

CACHES = frozenset({"past_key_values", "cache_params"})
"""The names under which models take a `Cache`, and return it."""

_OWN_STATES = ("state", "mems", "past_buckets_states", "cache")
"""The names of other states that a forward takes: RWKV's, XLNet's, Reformer's, XLM's."""

FEW_STEPS = 1000
"""Decoding steps of a run below which compiling one costs more time than it saves; a guess, not a measurement."""


def why_dynamic(
    device: str,
    model: PreTrainedModel,
    options: GenerationConfig,
    *,
    one_pass: bool,
    alike: bool,
    sharded: bool,
    steps: float,
) -> str:
    """Return why a run should not take a static cache and compiled steps by itself; "" where it should.

    Args:
        device: the type of the model's device, "cuda" or "cpu".
        model: the base.
        options: of decoding, the base's own included.
        one_pass: a step is one forward.
        alike: the same steering holds for all batches; another one would be compiled anew.
        sharded: processes share the model.
        steps: decoding steps of the whole run on this process, if no answer ends early.
    """
    quantizer, places = getattr(model, "hf_quantizer", None), getattr(model, "hf_device_map", {})
    reasons = {
        f"the model is on {device}": device != "cuda",
        "the options name a cache, or want none": bool(options.cache_implementation) or options.use_cache is False,
        "the options rule compiling out": bool(options.disable_compile),
        "beams": (options.num_beams or 1) > 1,
        "prompt lookup": bool(options.prompt_lookup_num_tokens),
        "prompts in chunks": bool(options.prefill_chunk_size),
        "the adapter decodes in two passes": not one_pass,
        "tasks have strengths of their own": not alike,
        "processes share the model": sharded,
        "the model is on several devices": len(set(places.values())) > 1,
        f"{type(model).__name__} does not compile": not model._can_compile_fullgraph,
        "the quantised weights do not compile": quantizer is not None and not quantizer.is_compileable,
        f"at most {steps:.0f} steps, too few to compile one for": steps < FEW_STEPS,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def check_caches(model: PreTrainedModel, *, two_passes: bool) -> None:
    """Raise InputError for a model whose past cannot be kept for the tuned and the base model apart.

    Args:
        model: a causal LM.
        two_passes: each distribution has a forward of its own, so what a layer keeps would serve both.
    """
    name = type(model).__name__
    if model.config.is_encoder_decoder:
        raise InputError(f"peft_model: expected a decoder-only language model, got the encoder-decoder {name}")
    if own := [state for state in _OWN_STATES if state in inspect.signature(type(model).forward).parameters]:
        raise InputError(
            f"peft_model: {name} keeps its past in {own[0]!r}, not in a transformers.Cache, and steered decoding "
            "cannot keep it for the tuned and the base model apart; take another base"
        )
    if two_passes and any(hasattr(part, "_setup_cache") for part in model.modules()):
        raise InputError(
            f"peft_model: {name} keeps its past inside its layers, where the two passes of this adapter would "
            "share it; use LoRA (without DoRA) or IA3, which decode both distributions in one pass"
        )


def cache_layers(cache: Cache) -> list[Any]:
    """Return the layers of a decoder's cache; none for a cache of a model's own kind."""
    return getattr(cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache, "layers", [])


def is_filled(cache: Cache) -> bool:
    """Return whether a cache holds states of some text."""
    return any(map(_layer_is_filled, cache_layers(cache)))


def _layer_is_filled(layer: Any) -> bool:
    if hasattr(layer, "has_previous_state"):  # convolutions and recurrences have no length
        return any(layer.has_previous_state.values())
    return hasattr(layer, "get_seq_length") and int(layer.get_seq_length()) > 0


def kept_rows(cache: Cache) -> Iterator[int]:
    """Yield how many rows the states of each layer have, of the layers that hold any."""
    for layer in cache_layers(cache):
        states = [getattr(layer, "keys", None), *getattr(layer, "conv_states", {}).values()]
        yield from (len(state) for state in states if isinstance(state, Tensor) and state.numel())
