"""Prompt learning on paired rows: the tuned rows see the virtual tokens, the base rows mask them."""

import inspect
from typing import Any

import torch
from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel

from svd_lightning.decoding.one_pass import PAIRED, OnePassModel
from svd_lightning.decoding.steered import Inputs, model_inputs
from svd_lightning.errors import InputError


class PromptModel(OnePassModel):
    """Steered model for virtual tokens; the cache holds their columns before those that generate() counts."""

    def _prepared_inputs(
        self,
        input_ids: Tensor,
        *,
        next_sequence_length: int | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> Inputs:
        """Prepare paired rows with virtual columns as the class does."""
        if past_key_values is None:
            raise InputError("use_cache: prompt learning decodes with a cache only, got use_cache=False")
        if inputs_embeds is not None:
            raise InputError("inputs_embeds: prompt learning decodes from input_ids only; pass input_ids")
        past = _cached_columns(past_key_values)
        if next_sequence_length is not None:
            # A prefill's length comes from the cache, virtual columns included: count without them.
            done = max(past - self._virtual_tokens, 0)
            new = input_ids.shape[1] - done if is_first_iteration else next_sequence_length
            input_ids = input_ids[:, input_ids.shape[1] - new :]
        return super()._prepared_inputs(
            input_ids,
            past_key_values=past_key_values,
            is_first_iteration=is_first_iteration or past == 0,
            **kwargs,
        )

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict, mode: Any, batch_size: int, max_cache_length: int
    ) -> None:
        cache = model_kwargs.get("past_key_values")
        if generation_config.prefill_chunk_size is not None and cache is not None and _cached_columns(cache):
            raise InputError(
                "prefill_chunk_size: with prompt learning a filled cache cannot be continued in chunks; "
                "leave prefill_chunk_size out"
            )
        super()._prepare_cache_for_generation(generation_config, model_kwargs, mode, batch_size, max_cache_length)

    def _one_pass(self, inputs: Inputs) -> Any:
        if PAIRED in inputs:
            return super()._one_pass(inputs)
        columns = model_inputs(inputs).shape[1]
        outputs, tuned, base = super()._one_pass(inputs)
        return outputs, tuned[:, -columns:], base[:, -columns:]

    def _pair(self, inputs: Inputs) -> Inputs:
        if inputs.get("past_key_values") is None:
            text_config = self._base_model.config.get_text_config(decoder=True)
            inputs = {**inputs, "past_key_values": DynamicCache(config=text_config)}
        tokens, cache = model_inputs(inputs), inputs["past_key_values"]
        past = _cached_columns(cache)
        mask = inputs.get("attention_mask")
        if mask is None:
            mask = tokens.new_ones(tokens.shape[0], max(past - self._virtual_tokens, 0) + tokens.shape[1])
        paired = super()._pair(inputs)
        if past == 0:
            cache.virtual_start = first_real_column(mask)
            paired |= self._first_columns(inputs, mask)
        paired["attention_mask"] = full_mask = self._paired_mask(mask, cache)
        if "position_ids" in inspect.signature(self._base_model.forward).parameters:
            columns = model_inputs(paired).shape[1]
            positions = (full_mask.long().cumsum(dim=-1) - 1).clamp_min(0)[:, -columns:]
            # A view's strides grow with the mask, and each would compile the step again.
            paired["position_ids"] = positions.clone(memory_format=torch.contiguous_format)
        return paired

    def _paired_mask(self, mask: Tensor, cache: Cache) -> Tensor:
        """Return the mask with the virtual columns: [B, L] → [2B, n + L]."""
        raise NotImplementedError

    def _first_columns(self, inputs: Inputs, mask: Tensor) -> Inputs:
        """Return the inputs, besides mask and positions, that start an empty cache; put prefixes into it."""
        raise NotImplementedError


class EmbeddingPromptModel(PromptModel):
    """Virtual embeddings (prompt tuning, p-tuning), inserted before each row's first real token.

    Before the padding they could lie outside a sliding window that holds them in the unpadded row.
    """

    def _paired_mask(self, mask: Tensor, cache: Cache) -> Tensor:
        virtual = mask.new_ones(mask.shape[0], self._virtual_tokens)
        return torch.cat(
            [insert_columns(mask, columns, cache.virtual_start) for columns in (virtual, 0 * virtual)]
        )

    def _first_columns(self, inputs: Inputs, mask: Tensor) -> Inputs:
        window = sliding_window(self._base_model)
        if window is not None and not mask.any(dim=1).all():
            raise InputError(
                f"prefill_chunk_size: expected more columns than the longest padding, got {mask.shape[1]}; under "
                "a sliding window, virtual tokens must stand next to the prompt"
            )
        embeds = inputs.get("inputs_embeds")
        if embeds is None:
            embeds = self._base_model.get_input_embeddings()(inputs["input_ids"])
        start = inputs["past_key_values"].virtual_start
        virtual = self._peft_model.get_prompt(batch_size=embeds.shape[0]).to(embeds)
        halves = [insert_columns(embeds, columns, start) for columns in (virtual, 0 * virtual)]
        changed: Inputs = {"inputs_embeds": torch.cat(halves)}
        if isinstance(keep := inputs.get("logits_to_keep"), Tensor):
            changed["logits_to_keep"] = keep + self._virtual_tokens
        return changed


class PrefixModel(PromptModel):
    """Virtual keys and values (prefix tuning), the first columns of the cache."""

    def _paired_mask(self, mask: Tensor, cache: Cache) -> Tensor:
        columns = self._virtual_tokens + mask.shape[1]
        window = sliding_window(self._base_model)
        if window is not None and columns > window and not mask.all():
            raise InputError(
                f"attention_mask: prefix tuning under a sliding window of {window} needs rows of one length once "
                f"they outgrow it ({columns} columns): padding would push the prefix out of the window early; "
                "decode rows of one length together, or one at a time"
            )
        virtual = mask.new_ones(mask.shape[0], self._virtual_tokens)
        return torch.cat([torch.cat([columns, mask], dim=1) for columns in (virtual, 0 * virtual)])

    def _first_columns(self, inputs: Inputs, mask: Tensor) -> Inputs:
        cache = inputs["past_key_values"]
        prefix = self._peft_model.get_prompt(batch_size=mask.shape[0])
        for index, layer in enumerate(prefix.layers):
            keys, values = layer.keys, layer.values
            if keys.shape[-2] != self._virtual_tokens:
                raise InputError(
                    f"peft_config.num_virtual_tokens: {self._virtual_tokens} do not fit the sliding window of "
                    f"layer {index}, which keeps {keys.shape[-2]}; use fewer virtual tokens"
                )
            cache.update(torch.cat([keys, 0 * keys]), torch.cat([values, 0 * values]), index)
        return {}


PROMPT_MODELS: dict[type, type[PromptModel]] = {
    PromptTuningConfig: EmbeddingPromptModel,
    PromptEncoderConfig: EmbeddingPromptModel,
    PrefixTuningConfig: PrefixModel,
}
"""Exact config type → steered model; a subclass may use its virtual tokens in another way."""


def first_real_column(mask: Tensor) -> Tensor:
    """Return the column of each row's first 1, or the number of columns if it has none: [B, L] → [B, 1].

    >>> first_real_column(torch.tensor([[0, 1, 1], [0, 0, 0]])).tolist()
    [[1], [3]]
    """
    return (mask.cumsum(dim=1) == 0).sum(dim=1, keepdim=True)


def insert_columns(rows: Tensor, new: Tensor, start: Tensor) -> Tensor:
    """Insert columns [B, n, ...] before each row's column `start`, int64 [B, 1]: [B, L, ...] → [B, n + L, ...].

    >>> insert_columns(torch.tensor([[0, 7]]), torch.tensor([[8, 9]]), torch.tensor([[1]])).tolist()
    [[0, 8, 9, 7]]
    """
    old = torch.arange(rows.shape[1], device=rows.device).expand(rows.shape[0], -1)
    index = torch.cat([start.expand(-1, new.shape[1]), old], dim=1).argsort(dim=1, stable=True)  # new before equal
    index = index.reshape(*index.shape, *[1] * (rows.ndim - 2)).expand(-1, -1, *rows.shape[2:])
    return torch.cat([new, rows], dim=1).gather(1, index)


def sliding_window(model: PreTrainedModel) -> int | None:
    """Return how many columns the model's sliding attention sees; None if it has no such layers."""
    return getattr(model.config.get_text_config(decoder=True), "sliding_window", None)


def _cached_columns(cache: Cache) -> int:
    """Count the columns in the cache, virtual ones included."""
    return int(cache.get_seq_length())
