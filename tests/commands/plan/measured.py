"""What a run really takes: the allocator's own count, and small models to take it of."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config

from svd_lightning.commands.plan.blank import Precision
from svd_lightning.models import attach_new, cast_frozen, widen_head

ROWS, LENGTH, NEW = 4, 64, 12
VOCABULARY = 3000


def small_base(folder: Path, **changes: Any) -> str:
    """A Qwen2 of two layers with sure predictions: few tokens pass the mask, as with a trained model."""
    settings = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Qwen2Config(
        **settings, num_key_value_heads=2, vocab_size=VOCABULARY, max_position_embeddings=256, **changes
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model.get_output_embeddings().weight.data *= 40
    model.save_pretrained(folder)
    return str(folder)


def in_run(base: PreTrainedModel, adapter: PeftConfig, precision: Precision) -> PeftModel:
    """The base with a new adapter, cast as `SteeredLanguageModel` casts itself."""
    model = attach_new(base, copy.deepcopy(adapter))
    if precision.cast is not None:
        cast_frozen(model, precision.cast)
        widen_head(base)
    return model


def peak_of(run: Callable[[], Any]) -> tuple[int, Any]:
    """Bytes that the CPU's allocator gave out at most while it ran, by torch's profiler; and the result."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak, result


def storage_bytes(tensors: Any) -> int:
    """Of all storages behind some tensors, each once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t.numel()}
    return sum(storages.values())
