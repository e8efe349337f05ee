"""Steered decoding of a batch of prompts, by transformers' own `generate`."""

import copy
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from svd_lightning.data import Batch, EncodedExample
from svd_lightning.decoding.model import steer_model
from svd_lightning.errors import InputError
from svd_lightning.records import PredictionRecord
from svd_lightning.steering import UNSTEERED, RowSteering, SteeringFunction, is_tuned

_log = logging.getLogger(__name__)

Steer = Callable[[PeftModel, SteeringFunction], Any]
"""Makes a steered model, as `steer_model` does."""


def check_options(options: Mapping[str, Any]) -> None:
    """Raise InputError for an option that transformers does not know, or a temperature that is not above 0."""
    defaults = GenerationConfig()
    if unknown := [name for name in options if not hasattr(defaults, name)]:
        raise InputError(
            f"generation: unknown option {', '.join(unknown)}; expected those of transformers.GenerationConfig, "
            "max_new_tokens, do_sample, num_beams, top_k, top_p, stop_strings among them"
        )
    temperature = options.get("temperature")
    if temperature is not None and not (math.isfinite(temperature) and temperature > 0):
        raise InputError(f"generation.temperature: expected a finite number above 0, got {temperature}")


def generation_config(options: Mapping[str, Any], base: GenerationConfig | None = None) -> GenerationConfig:
    """Make transformers' own configuration from the options.

    Args:
        options: of `transformers.GenerationConfig`.
        base: the base's own options. They complete options that contradict each other without them: a temperature
            alone makes sense where the base samples by itself.

    Raises:
        InputError: as `check_options`, or for values that transformers refuses.
    """
    check_options(options)
    refused = ValueError, TypeError
    try:
        try:
            return _checked(options)
        except refused:
            return _checked({**given_options(base or GenerationConfig()), **options})
    except refused as error:
        raise InputError(f"generation: {' '.join(str(error).split())}") from error


def given_options(config: GenerationConfig) -> dict[str, Any]:
    """Return the options that a configuration gives; it leaves the others to the base, or to transformers."""
    return {name: value for name, value in config.to_dict().items() if value is not None}


def completed(config: GenerationConfig, base: GenerationConfig) -> GenerationConfig:
    """Return the options with the base's own where they say nothing, as `generate` completes them."""
    whole = copy.deepcopy(config)
    for name, value in given_options(base).items():
        if getattr(whole, name, None) is None:
            setattr(whole, name, value)
    return whole


def answer_limit(options: GenerationConfig, prompt: int) -> int:
    """Return how many tokens the answer to a prompt may have: 20 where nothing is said, as `generate` has it.

    >>> [answer_limit(GenerationConfig(**each), 30) for each in ({}, {"max_length": 34}, {"max_new_tokens": 7})]
    [20, 4, 7]
    """
    limit = 20 if options.max_length is None else max(1, options.max_length - prompt)
    return options.max_new_tokens or limit


def _checked(options: Mapping[str, Any]) -> GenerationConfig:
    config = GenerationConfig(**options)
    config.validate(strict=True)
    return config


def decoding_text(config: GenerationConfig) -> str:
    """Say in words how options that the base's own have completed decode."""
    way, names = ("sampling", ["temperature", "top_k", "top_p"]) if config.do_sample else ("greedy", [])
    if (config.num_beams or 1) > 1:
        way = f"{config.num_beams} beams"
    options = {name: getattr(config, name) for name in [*names, "repetition_penalty"]}
    if config.do_sample and config.top_k is None:
        options["top_k"] = 50  # transformers' default, which its configuration does not name
    details = [f"{name} {value:g}" for name, value in options.items() if value is not None]
    limit = [] if config.max_new_tokens is None else [f"at most {config.max_new_tokens} new tokens"]
    return ", ".join([way, *details, *limit])


def say_sampling(config: GenerationConfig, base: GenerationConfig) -> None:
    """Say in the log that options leave sampling on, where the base's own have it on."""
    options = completed(config, base)
    if options.do_sample and base.do_sample:
        _log.info(
            "predict decodes by %s: the base's own generation_config samples unless told otherwise, by "
            "--model.generation '{do_sample: false}'",
            decoding_text(options),
        )


def check_room(
    config: GenerationConfig, base: GenerationConfig, prompts: Sequence[EncodedExample], context: int | None
) -> None:
    """Raise InputError if the longest of the prompts and its completion would outgrow the context.

    Args:
        config, base: the options, and the base's own.
        prompts: to complete.
        context: how many positions the model leaves for text; None if its configuration does not say.
    """
    config, longest = completed(config, base), max((len(row.prompt_ids) for row in prompts), default=0)
    if config.max_new_tokens is None and config.max_length is not None and config.max_length <= longest:
        raise InputError(
            f"generation.max_length: expected more than {longest}, the tokens of the longest prompt, which count "
            f"too, got {config.max_length}; give max_new_tokens instead"
        )
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
    steer: Steer = steer_model,
) -> list[list[str]]:
    """Complete a batch of prompts.

    Args:
        peft_model: in evaluation mode.
        batch: input_ids and attention_mask [B, T], padded on the left.
        steering: maps (tuned logits, base logits) to the logits to decode from.
        config: transformers' decoding options.
        tokenizer: turns ids into text, and finds stop strings.
        synced_gpus: several processes share the model, so each decodes until the last of them has finished.
        steer: makes the steered model, or finds one made before.

    Returns:
        For each of the B rows its completions without the prompt, `num_return_sequences` of them.

    Raises:
        InputError: for adapters that cannot be steered, or logits that are not finite.
    """
    prompts = batch["input_ids"]
    sequences = steer(peft_model, steering).generate(
        input_ids=prompts,
        attention_mask=batch["attention_mask"],
        generation_config=config,
        tokenizer=tokenizer,
        synced_gpus=synced_gpus,
    )
    answers = [before_end(answer, config.eos_token_id) for answer in sequences[:, prompts.shape[1] :].tolist()]
    texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
    per_row = len(texts) // len(prompts)
    return [texts[start : start + per_row] for start in range(0, len(texts), per_row)]


def before_end(answer: list[int], eos_token_id: int | list[int] | None) -> list[int]:
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
    steer: Steer = steer_model,
) -> list[PredictionRecord]:
    """Complete a batch under several steerings: one record per row, with each completion under its name.

    A row that several steerings leave to the tuned model as it is gets the same completion under all their names.

    Args:
        peft_model, batch, config, tokenizer, synced_gpus, steer: as in `generate`; the batch holds index, id,
            prompt and completion too.
        steerings: the steering of each completion, by its name in the record.
    """
    decode = partial(
        generate, peft_model, config=config, tokenizer=tokenizer, synced_gpus=synced_gpus, steer=steer
    )
    texts: dict[str, list[list[str]]] = {}
    tuned: dict[int, list[str]] = {}  # completions of the tuned model by row, each decoded once
    for name, steering in steerings.items():
        alike = _tuned_rows(steering, len(batch["id"]), synced_gpus=synced_gpus)
        rest = [row for row in range(len(batch["id"])) if row not in alike or row not in tuned]
        mine = steering.of(torch.tensor(rest)) if isinstance(steering, RowSteering) else steering
        new = dict(zip(rest, decode(rows_of(batch, rest), mine), strict=True)) if rest else {}
        tuned |= {row: text for row, text in new.items() if row in alike}
        texts[name] = [new[row] if row in new else tuned[row] for row in range(len(batch["id"]))]
    return prediction_records(batch, texts)


def prediction_records(batch: Batch, texts: Mapping[str, Sequence[list[str]]]) -> list[PredictionRecord]:
    """Return the record of each row of a batch, with its completions by their names: one text, or a list."""
    tasks = batch.get("task", [None] * len(batch["id"]))
    records = [
        {"id": batch["id"][row], "prompt": batch["prompt"][row]}
        | ({} if tasks[row] is None else {"task": tasks[row]})
        | {"index": int(batch["index"][row]), "reference": batch["completion"][row]}
        | {name: rows[row][0] if len(rows[row]) == 1 else rows[row] for name, rows in texts.items()}
        for row in range(len(batch["id"]))
    ]
    return cast(list[PredictionRecord], records)


def _tuned_rows(steering: SteeringFunction, size: int, *, synced_gpus: bool) -> set[int]:
    """Return the rows that a steering leaves to the tuned model as it is.

    Processes that share a model must decode as many batches as each other, whatever steers their rows.
    """
    if synced_gpus or not isinstance(steering, RowSteering):
        alike = steering is UNSTEERED["tuned"] or (is_tuned(steering) and not synced_gpus)
        return set(range(size)) if alike else set()
    return {row for rows, function in steering.parts() if is_tuned(function) for row in rows.tolist()}


def rows_of(batch: Batch, rows: Sequence[int]) -> Batch:
    """Return some rows of a batch, of its tensors and its lists."""
    return {
        name: field[list(rows)] if isinstance(field, Tensor) else [field[row] for row in rows]
        for name, field in batch.items()
    }
