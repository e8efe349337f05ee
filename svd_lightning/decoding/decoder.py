"""Batch after batch of prompts to texts: by a static cache and compiled steps where that pays."""

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from peft import PeftModel
from transformers import GenerationConfig, PreTrainedTokenizerBase

from svd_lightning.data import Batch, EncodedExample
from svd_lightning.decoding.caches import why_dynamic
from svd_lightning.decoding.generation import answer_limit, complete, completed, rows_of
from svd_lightning.decoding.model import steer_model, steered_class
from svd_lightning.decoding.two_pass import TwoPassModel
from svd_lightning.models.switch import active_config
from svd_lightning.records import PredictionRecord
from svd_lightning.steering import SteeringFunction

_log = logging.getLogger(__name__)


class Completer(Protocol):
    """Completes batches of prompts."""

    def complete(self, batch: Batch, steerings: Mapping[str, SteeringFunction]) -> list[PredictionRecord]:
        """Complete a batch under several steerings: one record per row, with each completion under its name."""


class Engine(Completer, Protocol):
    """Completes batches of prompts in place of the model."""

    @property
    def options(self) -> Mapping[str, Any]:
        """What it was asked to do otherwise than by itself, as far as it decides what is written."""


class Decoder:
    """Completes batches of prompts, `complete` for one model, with options that stay the same.

    With a static cache, a step is compiled once for each steering: its steered model is kept, and a smaller batch
    is filled up to the size of those before it. If that fails, decoding goes on with a dynamic cache.

    Args:
        peft_model: in evaluation mode.
        config: transformers' decoding options.
        tokenizer: turns ids into text, and finds stop strings.
        synced_gpus: several processes share the model.
        static_length: tokens that a static cache must hold, the longest prompt and its answer; None for the cache
            that `config` names.
    """

    def __init__(
        self,
        peft_model: PeftModel,
        config: GenerationConfig,
        tokenizer: PreTrainedTokenizerBase,
        *,
        synced_gpus: bool = False,
        static_length: int | None = None,
    ) -> None:
        self._peft_model = peft_model
        self._options: dict[str, Any] = {"tokenizer": tokenizer, "synced_gpus": synced_gpus}
        self._config, self._static = config, None if static_length is None else _static(config, static_length)
        self._models: list[tuple[SteeringFunction, Any]] = []
        self._rows = 0

    def complete(self, batch: Batch, steerings: Mapping[str, SteeringFunction]) -> list[PredictionRecord]:
        """Complete a batch under several steerings; see `generation.complete`."""
        if self._static is not None:
            try:
                return self._complete_static(batch, steerings)
            except RuntimeError as error:  # of the compiler, of CUDA graphs, or for want of memory
                self._static, self._models = None, []
                reason = " ".join(str(error).splitlines()[:2]) or type(error).__name__
                _log.warning("predict goes on with a dynamic cache: the static one failed (%s)", reason)
        return complete(self._peft_model, batch, steerings, config=self._config, **self._options)

    def _complete_static(self, batch: Batch, steerings: Mapping[str, SteeringFunction]) -> list[PredictionRecord]:
        rows = len(batch["id"])
        self._rows = max(self._rows, rows)
        filled = rows_of(batch, [*range(rows), *[0] * (self._rows - rows)])
        assert self._static is not None
        options = {"config": self._static, "steer": self._steered, **self._options}
        return complete(self._peft_model, filled, steerings, **options)[:rows]

    def _steered(self, peft_model: PeftModel, steering: SteeringFunction) -> Any:
        found = [model for kept, model in self._models if kept is steering]
        if not found:
            found = [steer_model(peft_model, steering)]
            self._models.append((steering, found[0]))
        return found[0]


class Run(NamedTuple):
    """What is known of a run before its first batch."""

    prompts: Sequence[EncodedExample]
    """Of all processes; empty if they are not known."""
    batches: float
    """On this process."""
    alike: bool
    """The same steering holds for all batches."""
    sharded: bool
    """Processes share the model."""


def decoder(
    peft_model: PeftModel,
    config: GenerationConfig,
    base: GenerationConfig,
    tokenizer: PreTrainedTokenizerBase,
    run: Run,
) -> Decoder:
    """Return a decoder that takes the cache which suits the device, and say on a GPU which, and why.

    Args:
        peft_model, config, tokenizer: as `Decoder` takes them.
        base: the base's own options.
        run: what is to be decoded.
    """
    options, longest = completed(config, base), max((len(row.prompt_ids) for row in run.prompts), default=0)
    new = answer_limit(options, longest)
    device = peft_model.device.type
    reason = why_dynamic(
        device,
        peft_model.get_base_model(),
        options,
        one_pass=not issubclass(steered_class(peft_model).model_class, TwoPassModel),
        alike=run.alike,
        sharded=run.sharded,
        steps=run.batches * new if run.prompts else 0,
    )
    if device == "cuda" and reason:
        _log.info("predict decodes with the cache that generate chooses: %s", reason)
    elif device == "cuda":
        _log.info(
            "predict decodes with a static cache and compiled steps: the first batch takes longer, the others "
            "less; --model.generation '{cache_implementation: dynamic}' does without"
        )
    virtual = getattr(active_config(peft_model), "num_virtual_tokens", None) or 0
    length = None if reason else longest + new + virtual
    return Decoder(peft_model, config, tokenizer, synced_gpus=run.sharded, static_length=length)


def _static(config: GenerationConfig, length: int) -> GenerationConfig:
    static = copy.deepcopy(config)
    static.cache_implementation, static.max_cache_len = "static", length
    return static
