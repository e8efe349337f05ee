"""Tokens per second inside vLLM: plain, steered, and plain twice (two models, one after the other).

.venv-vllm/bin/python benchmarks/serving.py /work/real/smollm2-135m --requests 1 8 32
"""

import argparse
import functools
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from timing import interleaved
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from vllm import LLM, SamplingParams

from svd_lightning.models import Backbone
from svd_lightning.serving.folder import save_served
from svd_lightning.steering import Steering, TaskSteering


def steered_folder(base: str, dtype: str, folder: Path) -> Path:
    """The base with LoRA of rank 8 on q_proj and v_proj, B not zero, and the paper's steering."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    adapted = get_peft_model(model, LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0.0, 0.02)
    return save_served(
        folder,
        adapted.eval(),
        TaskSteering(Steering(strengths=(2.0,))),
        AutoTokenizer.from_pretrained(base),
        backbone=Backbone(base),
        generation=GenerationConfig(),
    )


def decode(model: LLM, rows: list[list[int]], tokens: int) -> None:
    """Greedy tokens of all prompts at once."""
    params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)
    model.generate([{"prompt_token_ids": ids} for ids in rows], params, use_tqdm=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="folder of a base that vLLM serves steered")
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--prompt", type=int, default=32, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=32, help="new tokens of each request")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    options = {
        "dtype": given.dtype,
        "max_model_len": given.prompt + given.tokens,
        "max_num_seqs": max(given.requests),
        "enable_prefix_caching": False,  # the same prompts come again in every round
        "enforce_eager": not given.compile,
    }
    with tempfile.TemporaryDirectory() as place:
        folder = steered_folder(given.base, given.dtype, Path(place) / "served")
        plain, steered = LLM(given.base, **options), LLM(str(folder), **options)
        print(
            "| requests | plain, tokens/s | steered, tokens/s | steered over plain, time | two passes over plain |"
        )
        print("|---|---|---|---|---|")
        for requests in given.requests:
            generator = torch.Generator().manual_seed(requests)
            rows = torch.randint(100, 10000, (requests, given.prompt), generator=generator).tolist()
            once = functools.partial(decode, plain, rows, given.tokens)
            timing = interleaved(
                {
                    "plain": once,
                    "steered": functools.partial(decode, steered, rows, given.tokens),
                    "twice": lambda once=once: (once(), once()),
                },
                given.rounds,
            )
            speeds = [requests * given.tokens / timing.median(name) for name in ("plain", "steered")]
            ratios = [timing.paired_ratio(name, "plain") for name in ("steered", "twice")]
            cells = [f"{speed:.0f}" for speed in speeds] + [
                "{:.2f} ({:.2f} to {:.2f})".format(*one) for one in ratios
            ]
            print(f"| {requests} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
