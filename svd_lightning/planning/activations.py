"""Count what forward and backward passes need beside the weights, by running them on tensors without memory.

The kernels are the CPU's with fused attention (its matrix is never built, unless `attn_implementation: eager`);
a GPU's kernels keep the same. Every row is counted at full length. Not counted: workspaces inside kernels, an
allocator's gaps, and the virtual tokens of prompt learning in the attention mask.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from svd_lightning.planning.blank import Precision, as_fake
from svd_lightning.planning.live import LiveBytes
from svd_lightning.scoring.tokens import chunk_elements

CHUNK_TENSORS = 11
"""Float32 tensors [n, V] alive during a chunk of calibration tokens or a step of decoding. Measured: 7 if few
tokens pass the mask, 11 if all do."""


@dataclass(frozen=True)
class Batches:
    """The sizes of batches on one process."""

    train_rows: int
    eval_rows: int
    length: int
    """Tokens of a row, prompt and completion together; prompts of predict may be as long."""
    new_tokens: int
    sequences: int = 1
    """Beams or sampled completions per prompt, whichever is more."""


@dataclass(frozen=True)
class Activations:
    """Bytes beside weights, gradients and optimizer states, at the peak of each kind of work."""

    training: int
    calibration: int
    decoding: int
    """Without the cache."""
    cache: int
    """Keys and values of the tuned and the base model at the last token."""


def activations(
    model: PeftModel,
    precision: Precision,
    batches: Batches,
    *,
    compute_dtype: torch.dtype | None = None,
    free: int | None = None,
) -> Activations:
    """Run a training step, a forward of the calibration, a prompt and a decoding step without numbers.

    Args:
        model: from `blank_model`; unusable afterwards.
        precision: of the run.
        batches: their sizes.
        compute_dtype: number format of the gathered weights, if it is not that of their shards.
        free: what weights and training leave of a GPU's memory, by which the calibration chooses its chunks, in
            bytes; None on a CPU.
    """
    mode = FakeTensorMode()
    weights = as_fake(model, mode, dtype=compute_dtype)
    base = model.get_base_model()
    decoder, text = base.get_decoder(), base.config.get_text_config()

    def watch(run: Callable[[], Any]) -> tuple[int, int, Any]:
        """Return the peak while it runs, what its result keeps, and the result."""
        with LiveBytes(weights) as live:
            with precision.context():  # autocast frees its copies of weights when it ends
                result = run()
            return live.peak, live.now, result

    with mode:
        for parameter in model.parameters():
            if parameter.requires_grad:  # gradients are counted apart: let them be there already
                parameter.grad = torch.empty_like(parameter)
        training = watch(lambda: _training_step(model, batches))[0]
        model.eval()
        with torch.no_grad():
            inputs = _inputs(model, batches.eval_rows, batches.length)
            states = watch(lambda: decoder(**inputs, use_cache=False).last_hidden_state)[0]
            prompt, prompt_cache, _ = watch(lambda: _decode(model, batches, batches.length))
            last = batches.length + batches.new_tokens - 1
            _, cache, past = watch(lambda: _decode(model, batches, last))
            step = watch(lambda: _decode(model, batches, 1, past=past))[0]
    hidden = batches.eval_rows * batches.length * text.hidden_size * base.dtype.itemsize
    elements = chunk_elements(None if free is None else max(0, free - 2 * hidden))
    tokens = min(math.ceil(elements / text.vocab_size), batches.eval_rows * batches.length)
    chunk = CHUNK_TENSORS * 4 * text.vocab_size * tokens
    logits = CHUNK_TENSORS * 4 * text.vocab_size * batches.eval_rows * batches.sequences
    return Activations(
        training=training,
        calibration=max(states, chunk + 2 * hidden),
        decoding=max(prompt - prompt_cache, step, logits),
        cache=cache,
    )


def _training_step(model: PeftModel, batches: Batches) -> None:
    rows, length = batches.train_rows, batches.length
    model(**_inputs(model, rows, length), labels=torch.zeros(rows, length, dtype=torch.int64)).loss.backward()


def _decode(model: PeftModel, batches: Batches, tokens: int, *, past: Any = None) -> Any:
    """Return the cache after a forward of both models' rows; only the last position goes through the head."""
    rows = 2 * batches.eval_rows * batches.sequences
    config = model.active_peft_config
    virtual = config.num_virtual_tokens if config.is_prompt_learning and past is None else 0
    ids = torch.zeros(rows, tokens + virtual, dtype=torch.int64)
    outputs = model.get_base_model()(input_ids=ids, past_key_values=past, use_cache=True, logits_to_keep=1)
    return outputs.past_key_values


def _inputs(model: PeftModel, rows: int, length: int) -> dict[str, Tensor]:
    """Return ids and the mask in the form that attention uses: a mask without numbers cannot be converted."""
    ids = torch.zeros(rows, length, dtype=torch.int64)
    if model.active_peft_config.is_prompt_learning:
        return {"input_ids": ids}
    return {"input_ids": ids, "attention_mask": torch.ones(rows, 1, length, length, dtype=torch.bool)}
