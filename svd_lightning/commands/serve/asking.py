"""From a request to the answers that it asks for: prompts as tokens, decoding options, limits."""

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from transformers import GenerationConfig

from svd_lightning.answering import prompt_ids
from svd_lightning.commands.serve.answer import Answer, Piece
from svd_lightning.commands.serve.limits import Limits
from svd_lightning.commands.serve.requests import ChatCompletions, Completions, Prompt, Request
from svd_lightning.data.examples import Example, Message
from svd_lightning.decoding.generation import completed
from svd_lightning.decoding.side_by_side import Row
from svd_lightning.errors import InputError
from svd_lightning.module import SteeredLanguageModel
from svd_lightning.steering import UNSTEERED, SteeringFunction

_COLD = 1e-6
"""Temperatures below it are greedy: logits divided by much smaller ones are all infinite."""


class Asking:
    """Makes the answers of a request, in one thread at a time, which need not be the one that writes.

    Args:
        module: the run.
        config: how it decodes where a request says nothing.
        limits: for every request.
    """

    def __init__(self, module: SteeredLanguageModel, config: GenerationConfig, limits: Limits) -> None:
        self._module, self._config, self._limits = module, config, limits
        self._own = completed(config, module.peft_model.get_base_model().generation_config)
        self._tokenizer = copy.deepcopy(module.tokenizer)  # tokenizers do not work in two threads at once
        self._size = module.peft_model.get_base_model().get_input_embeddings().num_embeddings

    def answers(self, request: Request, tell: Callable[[Piece], None]) -> list[Answer]:
        """Return the answers that a request asks for; they tell their pieces in the thread that writes.

        Raises:
            InputError: for what this run or this server cannot do.
        """
        steering = self._steering(request)
        made: list[Answer] = []
        count = request.choices * (len(request.prompt) if isinstance(request, Completions) else 1)
        if count > self._limits.answers:
            raise InputError(f"n: expected at most {self._limits.answers} answers of a request, got {count}")
        for ids, echo in self._prompts(request):
            config = self._decoding(request, self._new_tokens(request, len(ids)))
            for choice in range(request.choices):
                seed = None if request.seed is None else _next_seed(request.seed, choice)
                row = Row(ids, steering, config, take=lambda *_: True, seed=seed)
                ends = self._module.ends
                place, tokenizer = len(made), self._module.tokenizer
                made.append(Answer(place, row, tokenizer, ends, tell, request.stop or (), request.tops, echo))
        return made

    def _steering(self, request: Request) -> SteeringFunction:
        if (name := request.distribution) in UNSTEERED:
            return UNSTEERED[name]
        if not self._module.steering.calibrated:
            raise InputError("distribution: this run has no strengths to steer with; ask for tuned or base")
        return self._module.steering

    def _prompts(self, request: Request) -> Iterator[tuple[Tensor, str | None]]:
        """Yield the tokens of each prompt, int64 [T], and its text where it is echoed."""
        if isinstance(request, Completions):
            for prompt in request.prompt:
                ids = self._ids(prompt)
                self._check_length(ids)
                yield ids, self._echo(prompt) if request.echo else None
        elif isinstance(request, ChatCompletions):
            if self._module.tokenizer.chat_template is None:
                raise InputError("messages: this base has no chat template; use /v1/completions")
            turns = [Message(role=one.role, content=one.text, trained=False) for one in request.messages]
            ids = prompt_ids(
                self._module,
                Example("the conversation", turns[-1].content, "", messages=tuple(turns)),
                self._tokenizer,
            )
            self._check_length(ids)
            yield ids, None

    def _ids(self, prompt: Prompt) -> Tensor:
        if isinstance(prompt, str):
            return prompt_ids(self._module, Example("the prompt", prompt, ""), self._tokenizer)
        if wrong := [token for token in prompt if not 0 <= token < self._size]:
            raise InputError(f"prompt: expected token ids from 0 to {self._size - 1}, got {wrong[0]}")
        return torch.tensor(prompt)

    def _echo(self, prompt: Prompt) -> str:
        return prompt if isinstance(prompt, str) else str(self._tokenizer.decode(prompt))

    def _check_length(self, ids: Tensor) -> None:
        if len(ids) > self._limits.prompt_tokens:
            raise InputError(
                f"prompt: expected at most {self._limits.prompt_tokens} tokens, got {len(ids)}; shorten it, or "
                "start the server with a larger --max-prompt-tokens"
            )

    def _new_tokens(self, request: Request, length: int) -> int:
        """Return the most tokens of an answer to a prompt of this length."""
        context = self._module.context_length
        room = self._limits.new_tokens if context is None else min(self._limits.new_tokens, context - length)
        if room < (1 if request.limit is None else min(1, request.limit)):
            raise InputError(f"prompt: its {length} tokens fill the model's context of {context}; shorten it")
        if request.limit is None:
            return min(self._config.max_new_tokens, room)
        if request.limit > self._limits.new_tokens:
            raise InputError(
                f"max_tokens: expected at most {self._limits.new_tokens}, got {request.limit}; ask for less, or "
                "start the server with a larger --max-new-tokens"
            )
        if request.limit > room:
            raise InputError(
                f"max_tokens: expected at most {room}, got {request.limit}: the model's context holds "
                f"{context} tokens, and the prompt has {length}"
            )
        return request.limit

    def _decoding(self, request: Request, new_tokens: int) -> GenerationConfig:
        """Return the run's own options with those of the request over them.

        A request that gives a temperature to a run that does not sample gets plain sampling: no top-k.
        """
        config = copy.deepcopy(self._config)
        config.max_new_tokens = new_tokens
        if request.temperature is not None:
            config.do_sample = request.temperature >= _COLD
            config.temperature = request.temperature if config.do_sample else None
            if not self._own.do_sample:
                config.top_k, config.top_p = 0, 1.0
        if request.top_p is not None:
            config.top_p = request.top_p
        return config


def _next_seed(seed: int, choice: int) -> int:
    """Return the seed of one of several answers, within 64 bits."""
    return (seed + choice + 2**63) % 2**64 - 2**63
