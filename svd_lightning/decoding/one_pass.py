"""Both models in one forward: rows [0:B] carry the adapter, rows [B:2B] do not."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.modeling_outputs import ModelOutput

from svd_lightning.decoding.caches import CACHES, kept_rows
from svd_lightning.decoding.paired_layers import PairedForward, installed
from svd_lightning.decoding.steered import Inputs, SteeredModel, model_inputs
from svd_lightning.errors import InputError

PAIRED = "rows_paired"
"""Marks inputs that `prepare_inputs_for_generation` has paired, so that 4-D masks have 2B rows from the start."""


class OnePassModel(SteeredModel):
    """Steered model for adapters with paired forwards: one pass, one cache of 2B rows."""

    _paired_forwards: list[tuple[nn.Module, PairedForward]]
    _own_cache: Cache | None = None
    """While generating: a cache whose rows are right; to count those of every layer takes time at each step."""

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Run `SteeredModel.generate`."""
        try:
            return super().generate(*args, **kwargs)
        finally:
            self._own_cache = None

    def _prepared_inputs(self, input_ids: Tensor, **kwargs: Any) -> Inputs:
        """Prepare paired rows as the class does."""
        return {**super()._prepared_inputs(**self._pair({"input_ids": input_ids, **kwargs})), PAIRED: True}

    def get_compiled_call(self, compile_config: Any) -> Any:
        """Return the step of `SteeredModel.get_compiled_call` with paired layers, installed outside the graph."""
        compiled = super().get_compiled_call(compile_config)

        def call(*args: Any, **kwargs: Any) -> Any:
            with installed(self._paired_forwards):
                return compiled(*args, **kwargs)

        return call

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict, mode: Any, batch_size: int, max_cache_length: int
    ) -> None:
        super()._prepare_cache_for_generation(  # type: ignore[misc]
            generation_config, model_kwargs, mode, 2 * batch_size, max_cache_length + self._virtual_tokens
        )

    def _reorder_cache(self, past_key_values: Cache, beam_idx: Tensor) -> Cache:
        past_key_values.reorder_cache(torch.cat([beam_idx, beam_idx + beam_idx.shape[0]]))
        return past_key_values

    def _both_logits(self, inputs: Inputs) -> tuple[ModelOutput, Tensor, Tensor]:
        if not torch.compiler.is_compiling():
            with installed(self._paired_forwards):
                return self._one_pass(inputs)
        if any(layer.__dict__.get("forward") is not forward for layer, forward in self._paired_forwards):
            raise InputError(
                "steered model: torch.compile of the model itself would leave the adapter on in both halves; "
                "use generate(cache_implementation='static'), which compiles the decoding step"
            )
        return self._one_pass(inputs)

    def _one_pass(self, inputs: Inputs) -> tuple[ModelOutput, Tensor, Tensor]:
        if not inputs.pop(PAIRED, False):
            self._check_adapter()
            inputs = self._pair(inputs)
            if inputs.get("inputs_embeds") is not None:
                inputs.pop("input_ids", None)
        outputs = self._base_model.forward(**inputs, return_dict=True)
        for name in ("hidden_states", "attentions"):
            if outputs.get(name) is not None:
                outputs[name] = tuple(state.chunk(2)[0] for state in outputs[name])
        tuned_logits, base_logits = outputs.logits.chunk(2)
        return outputs, tuned_logits, base_logits

    def _pair(self, inputs: Inputs) -> Inputs:
        """Return the inputs with every tensor [B, ...] as [2B, ...].

        Raises:
            InputError: for a cache filled by another kind of model, which holds the states of one model only.
        """
        rows = model_inputs(inputs).shape[0]
        cache = next((inputs[name] for name in CACHES if inputs.get(name) is not None), None)
        if cache is None or cache is self._own_cache:
            return pair_rows(inputs, rows)
        if found := [kept for kept in kept_rows(cache) if kept != 2 * rows]:
            raise InputError(
                f"past_key_values: expected {2 * rows} rows, tuned then base, got {found[0]}; pass an empty "
                "cache or one that a steered model has filled for the same batch"
            )
        if self._generating:
            self._own_cache = cache
        return pair_rows(inputs, rows)


def pair_rows(value: Any, rows: int) -> Any:
    """Repeat every tensor [B, ...] of a nested dictionary along its rows: [2B, ...]; leave the rest as it is."""
    if isinstance(value, dict):
        return {name: pair_rows(entry, rows) for name, entry in value.items()}
    if isinstance(value, Tensor) and value.ndim > 1 and value.shape[0] == rows:
        return torch.cat([value, value])
    return value
