"""Answers that appear as they are written: transformers' `generate` with a streamer."""

import copy
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from svd_lightning.data.examples import Example
from svd_lightning.data.tokenise import encode
from svd_lightning.decoding import steer_model
from svd_lightning.decoding.generation import completed, generation_config, given_options
from svd_lightning.errors import InputError
from svd_lightning.module import SteeredLanguageModel
from svd_lightning.steering import SteeringFunction

_NEW_TOKENS = 256
"""The limit of an answer where neither the run nor the base has one."""
_UNLIMITED = 2**31

Show = Callable[[str, bool], None]
"""Takes a piece of text, and whether steering put another token first than the tuned model."""


class Pieces(BaseStreamer):
    """Shows each token's text as soon as it is whole.

    Args:
        tokenizer: writes the text.
        show: called with each piece.
        flipped: whether steering put another token first at the last step.
        ends: tokens that end an answer and are not shown.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, show: Show, *, flipped: Callable[[], bool], ends: set[int]
    ) -> None:
        self._tokenizer, self._show, self._flipped, self._ends = tokenizer, show, flipped, ends
        self._ids: list[int] = []
        self._waiting = self._begun = False
        self.text = ""

    def put(self, value: Tensor) -> None:
        """Take the prompt first, then each token."""
        if not self._begun:
            self._begun = True
            return
        self._waiting |= self._flipped()
        self._ids += [token for token in value.flatten().tolist() if token not in self._ends]
        text = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        if not text.endswith("\ufffd"):  # the first bytes of a character
            self._add(text)

    def end(self) -> None:
        """Show what is left."""
        self._add(self._tokenizer.decode(self._ids, skip_special_tokens=True))

    def _add(self, text: str) -> None:
        if new := text[len(self.text) :]:
            self._show(new, self._waiting)
            self.text, self._waiting = text, False


def options(module: SteeredLanguageModel, given: dict[str, Any], max_new_tokens: int | None) -> GenerationConfig:
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


def prompt_of(module: SteeredLanguageModel, question: Example) -> Tensor:
    """Return the tokens of a question, int64 [T], as training would write them.

    Raises:
        InputError: if they fill the model's context, or the chat template refuses the messages.
    """
    [row] = encode([question], module.tokenizer, split="chat", max_length=_UNLIMITED, ends=module.ends).rows
    if module.context_length is not None and len(row.prompt_ids) >= module.context_length:
        raise InputError(
            f"the conversation has {len(row.prompt_ids)} tokens and fills the model's context of "
            f"{module.context_length}; /reset begins a new one"
        )
    return row.prompt_ids


def write(
    module: SteeredLanguageModel,
    steering: SteeringFunction,
    prompt_ids: Tensor,
    config: GenerationConfig,
    show: Show,
) -> str:
    """Write an answer, shown as it is written; Ctrl-C stops it after the next token. Returns its text."""
    model = steer_model(module.peft_model, steering)
    room = _UNLIMITED if module.context_length is None else module.context_length - len(prompt_ids)
    config = copy.deepcopy(config)
    config.max_new_tokens = min(config.max_new_tokens, room)
    ends = config.eos_token_id
    pieces = Pieces(
        module.tokenizer,
        show,
        flipped=lambda: bool(model.flipped().item()),
        ends={ends} if isinstance(ends, int) else set(ends or ()),
    )
    ids = prompt_ids.unsqueeze(0).to(module.peft_model.device)
    with _noting_interrupts() as noted:
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            tokenizer=module.tokenizer,
            streamer=pieces,
            stopping_criteria=StoppingCriteriaList([_Stop(noted)]),
        )
    return pieces.text


class _Stop(StoppingCriteria):
    """Stops once a signal has come."""

    def __init__(self, noted: list[int]) -> None:
        self._noted = noted

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        return torch.full((len(input_ids),), bool(self._noted), device=input_ids.device)


@contextmanager
def _noting_interrupts() -> Iterator[list[int]]:
    """Within it Ctrl-C is noted, not raised: a forward is never broken off."""
    noted: list[int] = []
    before = signal.signal(signal.SIGINT, lambda sign, frame: noted.append(sign))
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)
