"""The adapters of the benchmarks on real models, and how far each is trained."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from peft import IA3Config, LoraConfig, PeftConfig, PrefixTuningConfig, PromptTuningConfig

from svd_lightning import SteeredLanguageModel
from svd_lightning.models import Backbone

Dtype = Literal["float32", "bfloat16"]
"""Number format of the base."""


@dataclass(frozen=True)
class WarmStart:
    """How far an adapter is trained."""

    steps: int
    lr: float


WARM_STARTS = {
    "none": WarmStart(1, 0.0),
    "barely begun": WarmStart(15, 5e-5),
    "half way": WarmStart(60, 1e-4),
    "hot": WarmStart(120, 5e-4),
}
"""The learning rates are LoRA's."""

_LOW_RANK = partial(LoraConfig, task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])

ADAPTERS: dict[str, tuple[Callable[[], PeftConfig], float]] = {
    "lora": (_LOW_RANK, 1.0),
    "dora": (partial(_LOW_RANK, use_dora=True), 1.0),
    "ia3": (partial(IA3Config, task_type="CAUSAL_LM"), 30.0),
    "prompt": (partial(PromptTuningConfig, num_virtual_tokens=20, task_type="CAUSAL_LM"), 300.0),
    "p-tuning-v2": (partial(PrefixTuningConfig, num_virtual_tokens=20, task_type="CAUSAL_LM"), 300.0),
}
"""Kinds of adapters, and their learning rate in units of LoRA's."""


def untrained(
    model: str, adapter: str, warm: WarmStart, *, new_tokens: int = 32, dtype: Dtype = "float32"
) -> SteeredLanguageModel:
    """Return the module with which a warm start begins, its adapter in float32; it decodes greedily."""
    config, factor = ADAPTERS[adapter]
    return SteeredLanguageModel(
        Backbone(model, dtype=dtype),
        config(),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=factor * warm.lr),
        generation={"max_new_tokens": new_tokens, "do_sample": False},
    )
