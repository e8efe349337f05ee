"""Steered decoding of a batch of prompts, by transformers' own `generate`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from svd_lightning.data import Batch, EncodedExample
from svd_lightning.decoding.model import steer_model
from svd_lightning.errors import InputError
from svd_lightning.records import PredictionRecord
from svd_lightning.steering import SteeringFunction


def generation_config(options: Mapping[str, Any]) -> GenerationConfig:
    """Make transformers' own configuration from the options.

    Raises:
        InputError: for an option that transformers does not know, or values that it refuses.
    """
    defaults = GenerationConfig()
    if unknown := [name for name in options if not hasattr(defaults, name)]:
        raise InputError(
            f"generation: unknown option {', '.join(unknown)}; expected those of transformers.GenerationConfig, "
            "max_new_tokens, do_sample, num_beams, top_k, top_p, stop_strings among them"
        )
    temperature = options.get("temperature")
    if temperature is not None and not (math.isfinite(temperature) and temperature > 0):
        raise InputError(f"generation.temperature: expected a finite number above 0, got {temperature}")
    try:
        config = GenerationConfig(**options)
        config.validate(strict=True)
    except (ValueError, TypeError) as error:
        raise InputError(f"generation: {' '.join(str(error).split())}") from error
    return config


def check_room(config: GenerationConfig, prompts: Sequence[EncodedExample], context: int | None) -> None:
    """Raise InputError if the longest of the prompts and its completion would outgrow the context."""
    longest = max((len(row.prompt_ids) for row in prompts), default=0)
    asked = config.max_new_tokens or max(0, (config.max_length or 0) - longest)
    if context is not None and longest + asked > context:
        raise InputError(
            f"generation.max_new_tokens: expected at most {context - longest}, got {asked}: the model's context "
            f"holds {context} tokens (without an adapter's virtual ones), and the longest prompt has {longest}; "
            "lower it, or shorten the prompts"
        )


def generate(
    peft_model: PeftModel,
    batch: Batch,
    steering: SteeringFunction,
    *,
    config: GenerationConfig,
    tokenizer: PreTrainedTokenizerBase,
    synced_gpus: bool = False,
) -> list[list[str]]:
    """Complete a batch of prompts.

    Args:
        peft_model: in evaluation mode.
        batch: input_ids and attention_mask [B, T], padded on the left.
        steering: maps (tuned logits, base logits) to the logits to decode from.
        config: transformers' decoding options.
        tokenizer: turns ids into text, and finds stop strings.
        synced_gpus: several processes share the model, so each decodes until the last of them has finished.

    Returns:
        For each of the B rows its completions without the prompt, `num_return_sequences` of them.

    Raises:
        InputError: for adapters that cannot be steered, or logits that are not finite.
    """
    prompts = batch["input_ids"]
    sequences = steer_model(peft_model, steering).generate(
        input_ids=prompts,
        attention_mask=batch["attention_mask"],
        generation_config=config,
        tokenizer=tokenizer,
        synced_gpus=synced_gpus,
    )
    answers = [_before_end(answer, config.eos_token_id) for answer in sequences[:, prompts.shape[1] :].tolist()]
    texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
    per_row = len(texts) // len(prompts)
    return [texts[start : start + per_row] for start in range(0, len(texts), per_row)]


def _before_end(answer: list[int], eos_token_id: int | list[int] | None) -> list[int]:
    """Cut an answer before its end, which need not be a special token of the tokenizer."""
    ends = {eos_token_id} if isinstance(eos_token_id, int) else set(eos_token_id or ())
    return answer[: next((place for place, token in enumerate(answer) if token in ends), None)]


def complete(
    peft_model: PeftModel,
    batch: Batch,
    steerings: Mapping[str, SteeringFunction],
    *,
    config: GenerationConfig,
    tokenizer: PreTrainedTokenizerBase,
    synced_gpus: bool = False,
) -> list[PredictionRecord]:
    """Complete a batch under several steerings: one record per row, with each completion under its name.

    Args:
        peft_model, batch, config, tokenizer, synced_gpus: as in `generate`; the batch holds index, id, prompt and
            completion too.
        steerings: the steering of each completion, by its name in the record.
    """
    texts = {
        name: generate(peft_model, batch, steering, config=config, tokenizer=tokenizer, synced_gpus=synced_gpus)
        for name, steering in steerings.items()
    }
    tasks = batch.get("task", [None] * len(batch["id"]))
    records = [
        {"id": batch["id"][row], "prompt": batch["prompt"][row]}
        | ({} if tasks[row] is None else {"task": tasks[row]})
        | {"index": int(batch["index"][row]), "reference": batch["completion"][row]}
        | {name: rows[row][0] if len(rows[row]) == 1 else rows[row] for name, rows in texts.items()}
        for row in range(len(batch["id"]))
    ]
    return cast(list[PredictionRecord], records)


def rows_of(batch: Batch, rows: Sequence[int]) -> Batch:
    """Return some rows of a batch, of its tensors and its lists."""
    return {
        name: field[list(rows)] if isinstance(field, Tensor) else [field[row] for row in rows]
        for name, field in batch.items()
    }
