"""Answers that appear as they are written: transformers' `generate` with a streamer."""

import copy
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from svd_lightning.answering import prompt_ids
from svd_lightning.data.examples import Example
from svd_lightning.data.tokenise import UNLIMITED
from svd_lightning.decoding import steer_model
from svd_lightning.decoding.growing import GrowingText
from svd_lightning.errors import InputError
from svd_lightning.module import SteeredLanguageModel
from svd_lightning.steering import SteeringFunction

Show = Callable[[str, bool], None]
"""Takes a piece of text, and whether steering put another token first than the tuned model."""


class Pieces(BaseStreamer):
    """Shows each token's text as soon as it is whole.

    Args:
        text: of the answer.
        show: called with each piece.
        flipped: whether steering put another token first at the last step.
    """

    def __init__(self, text: GrowingText, show: Show, *, flipped: Callable[[], bool]) -> None:
        self._growing, self._show, self._flipped = text, show, flipped
        self._waiting = self._begun = False
        self.text = ""

    def put(self, value: Tensor) -> None:
        """Take the prompt first, then each token."""
        if not self._begun:
            self._begun = True
            return
        self._waiting |= self._flipped()
        for token in value.flatten().tolist():
            self._add(self._growing.add(token))

    def end(self) -> None:
        """Show what is left."""
        self._add(self._growing.rest())

    def _add(self, new: str) -> None:
        if new:
            self._show(new, self._waiting)
            self.text, self._waiting = self.text + new, False


def prompt_of(module: SteeredLanguageModel, question: Example) -> Tensor:
    """Return the tokens of a question, int64 [T], as training would write them.

    Raises:
        InputError: if they fill the model's context, or the chat template refuses the messages.
    """
    ids = prompt_ids(module, question)
    if module.context_length is not None and len(ids) >= module.context_length:
        raise InputError(
            f"the conversation has {len(ids)} tokens and fills the model's context of "
            f"{module.context_length}; /reset begins a new one"
        )
    return ids


def write(
    module: SteeredLanguageModel,
    steering: SteeringFunction,
    prompt: Tensor,
    config: GenerationConfig,
    show: Show,
) -> str:
    """Write an answer, shown as it is written; Ctrl-C stops it after the next token. Returns its text."""
    model = steer_model(module.peft_model, steering)
    room = UNLIMITED if module.context_length is None else module.context_length - len(prompt)
    config = copy.deepcopy(config)
    config.max_new_tokens = min(config.max_new_tokens, room)
    ends = config.eos_token_id
    text = GrowingText(module.tokenizer, {ends} if isinstance(ends, int) else set(ends or ()))
    pieces = Pieces(text, show, flipped=lambda: bool(model.flipped().item()))
    ids = prompt.unsqueeze(0).to(module.peft_model.device)
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
