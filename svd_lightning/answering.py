"""A run that answers people: opened, with its decoding options, and questions as tokens."""

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from svd_lightning.data.examples import Example
from svd_lightning.data.tokenise import UNLIMITED, encode
from svd_lightning.decoding.generation import completed, generation_config, given_options
from svd_lightning.errors import InputError, explained
from svd_lightning.module import SteeredLanguageModel
from svd_lightning.runs import open_run

_NEW_TOKENS = 256
"""The limit of an answer where neither the run nor the base has one."""


def open_on(run: str, device: str | None) -> SteeredLanguageModel:
    """Open a run on a device; None takes a GPU if there is one.

    Raises:
        InputError: if the run cannot be opened, or the device not used.
    """
    module = open_run(run)
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with explained((RuntimeError, AssertionError), lambda reason: f"device: cannot use {place!r}: {reason}"):
        module.to(place)
    return module


def decoding_options(
    module: SteeredLanguageModel, given: dict[str, Any], max_new_tokens: int | None = None
) -> GenerationConfig:
    """Return how answers are decoded: the run's own options, and those given over them.

    Raises:
        InputError: for beams or several sequences, which cannot appear as they are written.
    """
    base = module.peft_model.get_base_model().generation_config
    config = generation_config({**given_options(module.generation), **given}, base)
    whole = completed(config, base)
    if (whole.num_beams or 1) > 1 or (whole.num_return_sequences or 1) > 1:
        raise InputError(
            "generation: expected one answer without beams, which appears as it is written; write --generation "
            "'{num_beams: 1, num_return_sequences: 1}'"
        )
    config.max_new_tokens = max_new_tokens or whole.max_new_tokens or _NEW_TOKENS
    if whole.pad_token_id is None:  # transformers would say at each answer which one it takes
        config.pad_token_id = min(module.ends)
    return config


def prompt_ids(
    module: SteeredLanguageModel, question: Example, tokenizer: PreTrainedTokenizerBase | None = None
) -> Tensor:
    """Return the tokens of a question, int64 [T], as training would write them.

    Args:
        module: the run.
        question: what is asked.
        tokenizer: a copy of the run's own, for another thread; None takes that one.

    Raises:
        InputError: if it has no tokens, or the chat template refuses the messages.
    """
    [row] = encode(
        [question], tokenizer or module.tokenizer, split="chat", max_length=UNLIMITED, ends=module.ends
    ).rows
    return row.prompt_ids
