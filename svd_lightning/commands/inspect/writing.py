"""Decoding the completion to inspect, by transformers' own `generate`."""

import copy

import torch
from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from svd_lightning.decoding import steer_model
from svd_lightning.errors import InputError
from svd_lightning.steering import SteeringFunction

_NEW_TOKENS = 64
"""The default limit of a completion's tokens."""


def decoding_options(
    generation: GenerationConfig | None, max_new_tokens: int | None, room: int
) -> GenerationConfig:
    """Return the options of one completion that fits into the context.

    Raises:
        InputError: for more tokens than there is room for, or for more than one completion.
    """
    if max_new_tokens is not None and not 1 <= max_new_tokens <= room:
        raise InputError(
            f"max_new_tokens: expected 1 to {room}, what the model's context leaves after this prompt, "
            f"got {max_new_tokens}"
        )
    config = copy.deepcopy(generation) if generation is not None else GenerationConfig()
    if (config.num_return_sequences or 1) != 1:
        raise InputError(
            f"generation.num_return_sequences: expected 1, one completion to look at, "
            f"got {config.num_return_sequences}"
        )
    config.max_new_tokens = max_new_tokens or min(config.max_new_tokens or _NEW_TOKENS, room)
    return config


def decode(
    peft_model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    steering: SteeringFunction,
    prompt_ids: Tensor,
    config: GenerationConfig,
    seed: int,
) -> Tensor:
    """Write a completion: its ids, int64 [C] on the CPU. The caller's random state does not change."""
    ids = prompt_ids.unsqueeze(0).to(peft_model.device)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        whole = steer_model(peft_model, steering).generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config, tokenizer=tokenizer
        )
    return whole[0, len(prompt_ids) :].cpu()
