"""Both models one after the other, for adapters without a paired forward; the base only where it is needed.

Where mask and λ = −∞ leave one token in every row of a step, the base changes nothing there: its pass is left out,
and its next one takes the tokens that wait for it too, in one go.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn
from transformers import Cache, GenerationConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.generation import GenerationMode
from transformers.modeling_outputs import ModelOutput

from svd_lightning.decoding.caches import CACHES, cache_layers, is_filled
from svd_lightning.decoding.steered import Inputs, SteeredModel
from svd_lightning.errors import InputError
from svd_lightning.models.switch import layers_off
from svd_lightning.steering.corrections import needs_no_base

_BY_TOKEN = ("input_ids", "position_ids", "token_type_ids")
"""Inputs of a forward with a column for each of its tokens, the last dimension."""
_LAYERS = (DynamicLayer, DynamicSlidingWindowLayer)
"""Layers of a cache, not of a kind derived from them, that take several tokens after others."""


class PairCache(Cache):
    """A tuned and a base cache as one object: reordering or cropping it changes the layers of both."""

    is_compileable = False

    def __init__(self, tuned: Cache, base: Cache) -> None:
        self.tuned, self.base = tuned, base
        self.waiting: Inputs | None = None
        """Inputs of the tokens that the base has still to see; only while generate() runs."""
        self.layer_class_to_replicate = None
        self.offloading = False

    @property
    def layers(self) -> list[Any]:
        """Layers of both caches, tuned first; dynamic caches add theirs during the first pass."""
        return [*cache_layers(self.tuned), *cache_layers(self.base)]


class TwoPassModel(SteeredModel):
    """Steered model for any adapter that can be switched off: two passes, two caches."""

    _adapter_layers: list[nn.Module]
    _synced = False
    """While generating: other processes run as many forwards as this one."""
    _one_by_one = False
    """While generating: the next token follows the last, and nothing else happens to the cache."""
    _pair: PairCache | None = None
    """While generating: the caches of the last forward."""

    def generate(self, *args: Any, synced_gpus: bool | None = None, **kwargs: Any) -> Any:
        """Run as `SteeredModel.generate`; afterwards both caches have seen the whole text."""
        several = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
        self._synced = several if synced_gpus is None else synced_gpus
        try:
            output = super().generate(*args, synced_gpus=synced_gpus, **kwargs)
            kept = isinstance(output, ModelOutput) or kwargs.get("past_key_values") is not None
            if kept and (pair := self._pair) is not None and (waiting := pair.waiting) is not None:
                with torch.no_grad():
                    self._base_pass(waiting, {"past_key_values": pair.base})
                pair.waiting = None
            return output
        finally:
            self._one_by_one, self._pair = False, None

    def _prepare_cache_for_generation(
        self,
        generation_config: GenerationConfig,
        model_kwargs: dict,
        mode: GenerationMode,
        batch_size: int,
        max_cache_length: int,
    ) -> None:
        super()._prepare_cache_for_generation(  # type: ignore[misc]
            generation_config, model_kwargs, mode, batch_size, max_cache_length
        )
        for name in CACHES & model_kwargs.keys():
            if model_kwargs[name] is not None:
                model_kwargs[name] = pair_cache(model_kwargs[name])
        self._one_by_one = mode in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE)

    def _reorder_cache(self, past_key_values: Cache, beam_idx: Tensor) -> Cache:
        past_key_values.reorder_cache(beam_idx)
        return past_key_values

    def _both_logits(self, inputs: Inputs) -> tuple[ModelOutput, Tensor, Tensor | None]:
        pairs = {name: pair_cache(inputs.pop(name)) for name in CACHES if inputs.get(name) is not None}
        tuned_caches = {name: pair.tuned for name, pair in pairs.items()}
        base_caches = {name: pair.base for name, pair in pairs.items()}
        outputs = self._base_model.forward(**inputs, **tuned_caches, return_dict=True)
        pair = pairs.get("past_key_values")
        self._pair = pair if self._generating else None  # what a caller of forward drops must not stay
        if pair is not None:
            inputs = _joined(pair.waiting, inputs)
            if self._skips(inputs, outputs):
                pair.waiting, outputs.past_key_values = inputs, pair
                return outputs, outputs.logits, None
            pair.waiting = None
        base = self._base_pass(inputs, base_caches)
        for name in CACHES & outputs.keys():
            outputs[name] = pairs[name] if name in pairs else PairCache(outputs[name], base[name])
        return outputs, outputs.logits, base.logits[:, -outputs.logits.shape[1] :]

    def _base_pass(self, inputs: Inputs, caches: Mapping[str, Cache]) -> ModelOutput:
        with layers_off(self._adapter_layers):
            return self._base_model.forward(**inputs, **caches, return_dict=True)

    def _skips(self, inputs: Inputs, outputs: ModelOutput) -> bool:
        """Return whether the base's pass can wait: it changes nothing now, and can take several tokens later."""
        if self._synced or not self._one_by_one or getattr(self._steering, "correction", None) is not None:
            return False
        layers = cache_layers(outputs.past_key_values)
        simple = bool(layers) and all(type(layer) in _LAYERS for layer in layers)
        later = inputs.get("input_ids") is not None and all(_can_wait(*one) for one in inputs.items())
        return simple and later and needs_no_base(self._steering, outputs.logits)


def _can_wait(name: str, value: Any) -> bool:
    """Return whether an input can be joined with the next forward's, or be left to that one."""
    if name == "attention_mask":
        return value is None or (isinstance(value, Tensor) and value.ndim == 2)
    return name in _BY_TOKEN or not isinstance(value, Tensor)


def _joined(waiting: Inputs | None, inputs: Inputs) -> Inputs:
    """Return the inputs of a forward that takes waiting tokens first; the mask is the later one's."""
    if waiting is None:
        return inputs
    given = [name for name in _BY_TOKEN if inputs.get(name) is not None]
    columns = {name: torch.cat([waiting[name], inputs[name]], dim=-1) for name in given}
    return {**inputs, **columns}


def pair_cache(cache: Cache) -> PairCache:
    """Make a pair of caches from an empty one; return a pair as it is.

    Raises:
        InputError: for a filled cache of another kind, which holds the states of one model only, and for one that
            cannot be copied.
    """
    if isinstance(cache, PairCache):
        return cache
    if is_filled(cache):
        raise InputError(
            f"past_key_values: expected an empty cache or the past_key_values of this steered model's outputs, "
            f"got a filled {type(cache).__name__}; this adapter decodes in two passes, each with its own states"
        )
    try:
        return PairCache(cache, copy.deepcopy(cache))
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise InputError(
            f"past_key_values: expected a cache that can be copied, since this adapter decodes in two passes, "
            f"each with its own states, got {type(cache).__name__}: {str(error).splitlines()[0]}; leave it out"
        ) from error
