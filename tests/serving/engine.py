"""vLLM's offline engine beside `steer_model`, which decodes prompt by prompt: the reference."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoTokenizer, GenerationConfig
from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory

from svd_lightning import steer_model
from svd_lightning.models import Backbone
from svd_lightning.serving.folder import save_served
from svd_lightning.steering import Steering, SteeringFunction, TaskSteering

NEW = 24
GREEDY = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True)
CRAMPED = {
    "max_num_seqs": 5,
    "max_model_len": 96,
    "max_num_batched_tokens": 40,
    "block_size": 32,
    "num_gpu_blocks_override": 9,
    "enable_prefix_caching": True,
    "disable_log_stats": False,
}
"""More requests than slots, prompts that are read in pieces, and a cache for three of the longest requests."""


@contextmanager
def engine(folder: Path, **options: Any) -> Iterator[LLM]:
    """Run vLLM on a folder, in float32 and without compilation unless told otherwise."""
    given = {"max_model_len": 96, "enforce_eager": True, "distributed_executor_backend": "uni", **options}
    model = LLM(str(folder), **given)
    try:
        yield model
    finally:
        if (shutdown := getattr(model.llm_engine.engine_core, "shutdown", None)) is not None:
            shutdown()
        del model
        gc.collect()
        cleanup_dist_env_and_memory()


def tokens(model: LLM, rows: list[list[int]], params: SamplingParams = GREEDY) -> list[list[int]]:
    """Decode all prompts at once."""
    asked = [{"prompt_token_ids": ids} for ids in rows]
    return [list(each.outputs[0].token_ids) for each in model.generate(asked, params, use_tqdm=False)]


def preemptions(model: LLM) -> int:
    """How often a request lost its place in the cache."""
    return sum(int(one.value) for one in model.get_metrics() if one.name == "vllm:num_preemptions")


def served(model: PeftModel, steering: Steering, base: Path, out: Path) -> Path:
    """Write the folder for vLLM."""
    tokenizer, backbone = AutoTokenizer.from_pretrained(base), Backbone(str(base))
    return save_served(
        out, model, TaskSteering(steering), tokenizer, backbone=backbone, generation=GenerationConfig()
    )


def reference(
    model: PeftModel, steering: SteeringFunction, rows: list[list[int]], **options: Any
) -> list[list[int]]:
    """Decode prompt by prompt with `steer_model`."""
    decoder = steer_model(model, steering)
    given = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0, **options}
    return [decoder.generate(torch.tensor([ids]), **given)[0, len(ids) :].tolist() for ids in rows]


def reference_of_a_batch(model: PeftModel, steering: SteeringFunction, rows: list[list[int]]) -> list[list[int]]:
    """Decode all prompts together, padded on the left: large models take a fifth of the time."""
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    decoder = steer_model(model, steering)
    given = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    return decoder.generate(ids, attention_mask=mask, **given)[:, width:].tolist()
