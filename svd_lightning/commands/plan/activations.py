"""What forward and backward passes take beside the weights: the passes are run on tensors without memory.

Kernels are those of the CPU, attention fused (its matrix is never built, unless `attn_implementation: eager`),
which is what a GPU's kernels keep, too. Every row is counted at full length. Not counted: workspaces inside
kernels, an allocator's gaps, and the virtual tokens of prompt learning in the attention mask.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from svd_lightning.commands.plan.blank import Precision, as_fake
from svd_lightning.commands.plan.live import LiveBytes
from svd_lightning.scoring.tokens import CHUNK_ELEMENTS

CHUNK_TENSORS = 11
"""Float32 tensors [n, V] alive while a chunk of calibration tokens, or a step of decoding, is worked on: 7 were
measured where few tokens pass the mask, 11 where all do."""


@dataclass(frozen=True)
class Batches:
    """How much is worked on at a time on one process."""

    train_rows: int
    eval_rows: int
    length: int
    """Tokens of a row, prompt and completion; prompts to complete may be as long."""
    new_tokens: int
    sequences: int = 1
    """Beams, or completions sampled, per prompt: the larger."""


@dataclass(frozen=True)
class Activations:
    """Bytes beside weights, gradients and states, at the peak of each kind of work."""

    training: int
    calibration: int
    decoding: int
    """Beside the cache."""
    cache: int
    """Keys and values of the tuned and the base model at the last token."""


def activations(
    model: PeftModel, precision: Precision, batches: Batches, *, compute_dtype: torch.dtype | None = None
) -> Activations:
    """Run a training step, a forward of the calibration, a prompt and a decoding step without numbers.

    Args:
        model: from `blank_model`; not to be used afterwards.
        precision: of the run.
        batches: their sizes.
        compute_dtype: what sharding gathers the weights in, where that is not what they are kept in.
    """
    mode = FakeTensorMode()
    known = as_fake(model, mode, dtype=compute_dtype)

    def watch(run: Callable[[], Any]) -> tuple[int, int]:
        """(peak while it runs, what its result keeps)."""
        with LiveBytes(known) as live, precision.context():
            result = run()
            kept = live.now
            del result
        return live.peak, kept

    with mode, _gradients_made(model):
        training, _ = watch(lambda: _training_step(model, batches))
        model.eval()
        with torch.no_grad():
            states, _ = watch(lambda: _states(model, batches.eval_rows, batches.length))
            prompt, prompt_cache = watch(lambda: _decode(model, batches, batches.length))
            past = _decode(model, batches, batches.length + batches.new_tokens - 1)
            cache = _cache_bytes(past)
            step, _ = watch(lambda: _decode(model, batches, 1, past=past))
    vocabulary = model.get_base_model().config.get_text_config().vocab_size
    tokens = min(math.ceil(CHUNK_ELEMENTS / vocabulary), batches.eval_rows * batches.length)
    chunk = CHUNK_TENSORS * 4 * vocabulary * tokens
    logits = CHUNK_TENSORS * 4 * vocabulary * batches.eval_rows * batches.sequences
    return Activations(
        training=training,
        calibration=max(states, chunk + 2 * _hidden_bytes(model, batches)),
        decoding=max(prompt - prompt_cache, step, logits),
        cache=cache,
    )


def _training_step(model: PeftModel, batches: Batches) -> None:
    rows, length = batches.train_rows, batches.length
    model(**_inputs(model, rows, length), labels=torch.zeros(rows, length, dtype=torch.int64)).loss.backward()


def _states(model: PeftModel, rows: int, length: int) -> Tensor:
    decoder = model.get_base_model().get_decoder()
    hidden: Tensor = decoder(**_inputs(model, rows, length), use_cache=False).last_hidden_state
    return hidden


def _decode(model: PeftModel, batches: Batches, tokens: int, *, past: Any = None) -> Any:
    """The cache after a forward of both models' rows, of which only the last position passes the head."""
    rows = 2 * batches.eval_rows * batches.sequences
    config = model.active_peft_config
    virtual = config.num_virtual_tokens if config.is_prompt_learning and past is None else 0
    ids = torch.zeros(rows, tokens + virtual, dtype=torch.int64)
    outputs = model.get_base_model()(input_ids=ids, past_key_values=past, use_cache=True, logits_to_keep=1)
    return outputs.past_key_values


def _inputs(model: PeftModel, rows: int, length: int) -> dict[str, Tensor]:
    """Ids, and the mask of padded rows as attention takes it: looking into a mask without numbers would fail."""
    ids = torch.zeros(rows, length, dtype=torch.int64)
    if model.active_peft_config.is_prompt_learning:
        return {"input_ids": ids}
    return {"input_ids": ids, "attention_mask": torch.ones(rows, 1, length, length, dtype=torch.bool)}


def _hidden_bytes(model: PeftModel, batches: Batches) -> int:
    config = model.get_base_model().config.get_text_config()
    itemsize: int = model.get_base_model().dtype.itemsize
    return batches.eval_rows * batches.length * config.hidden_size * itemsize


def _cache_bytes(cache: Any) -> int:
    """Of all tensors in it, whatever kind of cache it is."""
    storages = {id(tensor.untyped_storage()): tensor.untyped_storage().nbytes() for tensor in _tensors(cache)}
    return sum(storages.values())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif hasattr(value, "__dict__"):
        yield from _tensors(list(vars(value).values()))


@contextmanager
def _gradients_made(model: PeftModel) -> Iterator[None]:
    """Gradients, which the plan counts apart, are there already."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter)
    yield
    model.zero_grad()
