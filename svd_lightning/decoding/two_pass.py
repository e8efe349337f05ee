"""Both models one after the other, for adapters without a paired forward."""

import copy
from typing import Any

from torch import Tensor, nn
from transformers import Cache
from transformers.modeling_outputs import ModelOutput

from svd_lightning.decoding.caches import CACHES, cache_layers, is_filled
from svd_lightning.decoding.steered import Inputs, SteeredModel
from svd_lightning.errors import InputError
from svd_lightning.models.switch import layers_off


class PairCache(Cache):
    """A tuned and a base cache as one object: reordering or cropping it changes the layers of both."""

    is_compileable = False

    def __init__(self, tuned: Cache, base: Cache) -> None:
        self.tuned, self.base = tuned, base
        self.layer_class_to_replicate = None
        self.offloading = False

    @property
    def layers(self) -> list[Any]:
        """Layers of both caches, tuned first; dynamic caches add theirs during the first pass."""
        return [*cache_layers(self.tuned), *cache_layers(self.base)]


class TwoPassModel(SteeredModel):
    """Steered model for any adapter that can be switched off: two passes, two caches."""

    _adapter_layers: list[nn.Module]

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict, mode: Any, batch_size: int, max_cache_length: int
    ) -> None:
        super()._prepare_cache_for_generation(  # type: ignore[misc]
            generation_config, model_kwargs, mode, batch_size, max_cache_length
        )
        for name in CACHES & model_kwargs.keys():
            if model_kwargs[name] is not None:
                model_kwargs[name] = pair_cache(model_kwargs[name])

    def _reorder_cache(self, past_key_values: Cache, beam_idx: Tensor) -> Cache:
        past_key_values.reorder_cache(beam_idx)
        return past_key_values

    def _both_logits(self, inputs: Inputs) -> tuple[ModelOutput, Tensor, Tensor]:
        pairs = {name: pair_cache(inputs.pop(name)) for name in CACHES if inputs.get(name) is not None}
        tuned_caches = {name: pair.tuned for name, pair in pairs.items()}
        base_caches = {name: pair.base for name, pair in pairs.items()}
        outputs = self._base_model.forward(**inputs, **tuned_caches, return_dict=True)
        with layers_off(self._adapter_layers):
            base = self._base_model.forward(**inputs, **base_caches, return_dict=True)
        for name in CACHES & outputs.keys():
            outputs[name] = PairCache(outputs[name], base[name])
        return outputs, outputs.logits, base.logits


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
