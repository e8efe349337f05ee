"""Whole data sets through vLLM: `predict --engine vllm`."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig
from typing_extensions import Self

from svd_lightning.data import Batch, CompletionDataModule
from svd_lightning.decoding.generation import answer_limit, before_end, completed, prediction_records
from svd_lightning.errors import InputError
from svd_lightning.module import SteeredLanguageModel
from svd_lightning.records import PredictionRecord
from svd_lightning.serving.folder import save_served
from svd_lightning.steering import SteeringFunction

AT_ONCE = 256
"""How many prompts vLLM is given at a time, at least; what is written is kept when a run is interrupted."""

_MACHINE = {
    *("gpu_memory_utilization", "kv_cache_memory_bytes", "cpu_offload_gb", "swap_space"),
    *("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "distributed_executor_backend"),
    *("max_num_seqs", "max_num_batched_tokens", "disable_log_stats", "use_tqdm_on_load"),
}
"""Arguments of `vllm.LLM` that say where and how many at a time: an interrupted run may go on with others."""
_SAMPLED = ("temperature", "top_k", "top_p", "min_p")
_KNOWN = {
    *(*_SAMPLED, "do_sample", "repetition_penalty", "num_return_sequences"),
    *("max_new_tokens", "min_new_tokens", "max_length", "stop_strings"),
    *("eos_token_id", "pad_token_id", "bos_token_id", "transformers_version", "use_cache"),
}
_PLAIN = {"num_beams": 1, "length_penalty": 1.0}
"""Options that vLLM has no name for, at the value that changes nothing."""


def check_engine(processes: int) -> None:
    """Raise InputError where vLLM is not installed, or for a Trainer of several processes."""
    if find_spec("vllm") is None:
        raise InputError(
            "engine: expected vLLM here, and it is not installed; it pins its own torch, so run this command in "
            "an environment of its own, made by `pip install 'svd-lightning[vllm]'`"
        )
    if processes > 1:
        raise InputError(
            f"trainer.devices: expected 1 with --engine vllm, which starts processes of its own, got {processes}; "
            "write --engine_options '{tensor_parallel_size: N}'"
        )


@contextmanager
def at_once(data: object) -> Iterator[None]:
    """Give vLLM batches of at least `AT_ONCE` prompts within the context; leave other data as they are."""
    if not isinstance(data, CompletionDataModule):
        yield
        return
    own = data.eval_batch_size
    data.eval_batch_size = max(own or data.batch_size, AT_ONCE)
    try:
        yield
    finally:
        data.eval_batch_size = own


class OfflineEngine:
    """Completes batches of prompts by vLLM's offline interface; the engine starts with the first batch.

    Use it as a context: at the end the engine stops, and the folder that it serves is deleted.

    Args:
        module: whose model is decoded, with the steering that it has when the first batch comes.
        options: arguments of `vllm.LLM`, such as `tensor_parallel_size`.
        seed: of sampling; each row adds its number.
    """

    def __init__(self, module: SteeredLanguageModel, options: Mapping[str, Any], *, seed: int) -> None:
        self._module, self._arguments, self._seed = module, dict(options), seed
        self.options = {name: value for name, value in options.items() if name not in _MACHINE}
        self._stack = ExitStack()
        self._engine: Any = None

    def __enter__(self) -> Self:
        """Return the engine, not started yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the engine."""
        self._engine = None
        self._stack.close()

    def complete(self, batch: Batch, steerings: Mapping[str, SteeringFunction]) -> list[PredictionRecord]:
        """Complete a batch of prompts; see `Completer`.

        Raises:
            InputError: for completions of base and tuned model too, for decoding options that vLLM lacks, and as
                `save_served`.
        """
        module = self._module
        peft_model, tokenizer = module.peft_model, module.tokenizer
        if list(steerings) != ["completion"]:
            raise InputError(
                "predict.compare: expected false with --engine vllm, which serves the steered model alone"
            )
        base = peft_model.get_base_model().generation_config
        options = completed(module.generation, base)
        check_options(options)
        if self._engine is None:
            self._engine = self._start(peft_model)
        rows = [
            ids[mask.bool()].tolist()
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        ]
        numbers = batch["index"].tolist()
        answers = self._engine.generate(
            [{"prompt_token_ids": ids} for ids in rows],
            [
                sampling_params(options, prompt=len(ids), seed=self._seed + number)
                for ids, number in zip(rows, numbers, strict=True)
            ],
            use_tqdm=False,
        )
        texts = [
            tokenizer.batch_decode(
                [before_end(list(one.token_ids), options.eos_token_id) for one in answer.outputs],
                skip_special_tokens=True,
            )
            for answer in answers
        ]
        return prediction_records(batch, {"completion": texts})

    def _start(self, peft_model: PeftModel) -> Any:
        """Write the folder and start vLLM on it."""
        from vllm import LLM

        module, place = self._module, peft_model.device
        folder = (
            Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="svd-lightning-vllm-"))) / "served"
        )
        save_served(
            folder,
            peft_model,
            module.task_steering,
            module.tokenizer,
            backbone=module.backbone,
            generation=module.generation,
            bring=os.symlink,
        )
        if place.type == "cuda":  # vLLM takes the device's memory
            peft_model.cpu()
            torch.cuda.empty_cache()
        engine = LLM(str(folder), generation_config="vllm", **self._arguments)
        self._stack.callback(_stop, engine)
        return engine


def check_options(options: GenerationConfig) -> None:
    """Raise InputError for decoding options that vLLM lacks."""
    given = {name: value for name, value in options.to_diff_dict().items() if name not in _KNOWN}
    odd = (name for name, value in given.items() if value and value != _PLAIN.get(name))
    if unknown := sorted(name for name in odd if not name.startswith("_")):
        raise InputError(
            f"generation: expected options that vLLM has with --engine vllm, got {', '.join(unknown)}; leave them "
            "out, or decode without --engine"
        )


def sampling_params(options: GenerationConfig, *, prompt: int, seed: int) -> Any:
    """Return vLLM's options of one request that mean what these mean to transformers.

    Args:
        options: completed, and checked by `check_options`.
        prompt: tokens of the prompt, which `max_length` counts too.
        seed: of sampling.
    """
    from vllm import SamplingParams

    drawn = {"temperature": 1.0, "top_k": 50, **_given(options, _SAMPLED)} if options.do_sample else {}
    ends = options.eos_token_id
    return SamplingParams(
        **{"temperature": 0.0, **drawn},
        n=options.num_return_sequences or 1,
        max_tokens=answer_limit(options, prompt),
        min_tokens=options.min_new_tokens or 0,
        repetition_penalty=options.repetition_penalty or 1.0,
        stop=options.stop_strings,
        stop_token_ids=[ends] if isinstance(ends, int) else list(ends or ()),
        ignore_eos=True,  # those above end an answer, and no other
        seed=seed if options.do_sample else None,
        detokenize=options.stop_strings is not None,
    )


def _given(options: GenerationConfig, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(options, name, None)) is not None}


def _stop(engine: Any) -> None:
    if (shutdown := getattr(engine.llm_engine.engine_core, "shutdown", None)) is not None:
        shutdown()
