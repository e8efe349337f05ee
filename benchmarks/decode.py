"""Price of a steered token: one pass, two passes, PEFT's adapter_names and two models against plain decoding.

    python benchmarks/decode.py --size 110m --dtype bfloat16 --batch 1
    python benchmarks/decode.py --device cuda --size 8b --layers 8 --prompt 32 2048 8192 --batch 1 8 \\
        --caches dynamic static --only "steered, one pass"
    python benchmarks/decode.py --device cuda --size 8b --prompt 2048 --samples 8

Several prompts, batches and caches run in one sitting, each beside its own baseline. With --samples K it times
whole answers to K samples of each prompt instead: every sample with its prompt, or the prompt once.
"""

import argparse
import copy
import gc
import itertools
from collections.abc import Callable
from unittest.mock import patch

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from timing import Clock, interleaved, interleaved_steps, peak_memory, print_table
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from svd_lightning.decoding import steer_model
from svd_lightning.decoding.model import SteeredClass
from svd_lightning.decoding.two_pass import TwoPassModel
from svd_lightning.models.switch import adapter_layers
from svd_lightning.steering import Steering

SIZES = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
    "110m": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12},
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
    },
}
PLAIN = "plain adapted generate"


def build(size: str, dtype: torch.dtype, device: str, *, layers: int | None = None) -> PeftModel:
    """A random Llama with a random adapter; `layers` in place of the size's own."""
    torch.manual_seed(0)
    shape = {"vocab_size": 32000, "tie_word_embeddings": True, "max_position_embeddings": 16384, **SIZES[size]}
    config = LlamaConfig(**shape | ({} if layers is None else {"num_hidden_layers": layers}), eos_token_id=None)
    with torch.device(device):
        model = LlamaForCausalLM(config).to(dtype)
    return random_adapter(model)


def random_adapter(model: PreTrainedModel) -> PeftModel:
    """LoRA of rank 8 on q_proj and v_proj, B not zero."""
    model = get_peft_model(model, LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0.0, 0.02)
    return model.eval()


def two_pass_model(model: PeftModel, steering: Steering) -> LlamaForCausalLM:
    """The fallback, forced upon an adapter that does not need it."""
    forced = SteeredClass(TwoPassModel, {"_adapter_layers": adapter_layers(model)})
    with patch("svd_lightning.decoding.model.steered_class", return_value=forced):
        return steer_model(model, steering)


@torch.no_grad()
def two_models(
    tuned: PeftModel, base: LlamaForCausalLM, steering: Steering, ids: Tensor, clock: Clock, count: int
) -> None:
    """The hand-written greedy loop of the literature: a second model in memory, a second forward per token."""
    caches, new = (DynamicCache(), DynamicCache()), ids
    for _ in range(count):
        logits = [
            model(input_ids=new, past_key_values=cache, logits_to_keep=1).logits
            for model, cache in zip((tuned, base), caches, strict=True)
        ]
        new = steering(*logits)[:, -1].argmax(dim=-1, keepdim=True)
        clock(new)


def options_of(arguments: argparse.Namespace) -> dict[str, object]:
    """Greedy, as many tokens as asked for."""
    count = {"max_new_tokens": arguments.tokens, "min_new_tokens": arguments.tokens}
    return {**count, "do_sample": False, "pad_token_id": 0}


def candidates(
    model: PeftModel, arguments: argparse.Namespace, prompt: int, batch: int, cache: str
) -> dict[str, Callable[[Clock], object]]:
    steering = Steering(strengths=[1.0])
    ids = torch.randint(3, model.config.vocab_size, (batch, prompt), device=arguments.device)
    mask = torch.ones_like(ids)
    options = options_of(arguments) | ({"cache_implementation": "static"} if cache == "static" else {})
    one, two = steer_model(model, steering), two_pass_model(model, steering)
    doubled = {"input_ids": torch.cat([ids, ids]), "attention_mask": torch.cat([mask, mask])}
    names = ["default"] * batch + ["__base__"] * batch
    single = {"input_ids": ids, "attention_mask": mask}
    found: dict[str, Callable[[Clock], object]] = {
        PLAIN: lambda clock: model.generate(**single, **options, stopping_criteria=[clock]),
        "steered, one pass": lambda clock: one.generate(**single, **options, stopping_criteria=[clock]),
        "steered, two passes": lambda clock: two.generate(**single, **options, stopping_criteria=[clock]),
        "adapter_names, not steered": lambda clock: model.generate(
            **doubled, **options, stopping_criteria=[clock], adapter_names=names
        ),
    }
    if arguments.two_models:
        base = copy.deepcopy(model).unload()
        found["two models, hand-written loop"] = lambda clock: two_models(
            model, base, steering, ids, clock, arguments.tokens
        )
    return {name: run for name, run in found.items() if name in {PLAIN, *(arguments.only or found)}}


@torch.no_grad()
def after_one_prompt(model: LlamaForCausalLM, ids: Tensor, samples: int, options: dict[str, object]) -> Tensor:
    """Answers to several samples of each prompt, whose forward runs once and whose cache is repeated."""
    cache = model(input_ids=ids[:, :-1], use_cache=True, logits_to_keep=1).past_key_values
    cache.batch_repeat_interleave(samples)
    whole = ids.repeat_interleave(samples, dim=0)
    return model.generate(whole, attention_mask=torch.ones_like(whole), past_key_values=cache, **options)


def sampling(
    model: PeftModel, arguments: argparse.Namespace, prompt: int, batch: int
) -> dict[str, Callable[[], object]]:
    """Whole answers to K samples of each prompt."""
    steered, base = steer_model(model, Steering(strengths=[1.0])), model.get_base_model()
    ids = torch.randint(3, model.config.vocab_size, (batch, prompt), device=arguments.device)
    count, options = arguments.samples, options_of(arguments) | {"do_sample": True}
    whole = ids.repeat_interleave(count, dim=0)
    each = {"input_ids": whole, "attention_mask": torch.ones_like(whole), **options}
    return {
        "plain, every sample with its prompt": lambda: base.generate(**each),
        "plain, prompt once": lambda: after_one_prompt(base, ids, count, options),
        "steered, every sample with its prompt": lambda: steered.generate(**each),
        "steered, prompt once": lambda: after_one_prompt(steered, ids, count, options),
    }


def forget(model: PeftModel, device: str) -> None:
    """Drop compiled steps and the memory of their graphs, and the length of the last static cache."""
    model.get_base_model().__dict__.pop("_previous_max_cache_length", None)
    torch._dynamo.reset()
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def steps(model: PeftModel, arguments: argparse.Namespace, prompt: int, batch: int, cache: str) -> None:
    """Print the tables of one prompt length, batch and cache."""
    runs, device = candidates(model, arguments, prompt, batch, cache), arguments.device
    started = interleaved({name: lambda run=run: run(Clock(device)) for name, run in runs.items()}, 0, device)
    first, later = interleaved_steps(runs, arguments.rounds, device)
    memory = {n: peak_memory(lambda run=run: run(Clock(device)), device) for n, run in runs.items()}
    print_table(later, PLAIN, unit="token", memory=memory)
    print()
    print_table(first, PLAIN, unit="first token", memory={})
    print("\nFirst call, compiling included: " + ", ".join(f"{n} {s:.1f} s" for n, s in started.warm_up.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="110m")
    parser.add_argument("--layers", type=int, help="fewer or more than the size has")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="bfloat16")
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--prompt", type=int, nargs="+", default=[32], help="tokens of each prompt")
    parser.add_argument("--tokens", type=int, default=32, help="new tokens")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    static = "static: compiled steps, CUDA graphs on a GPU"
    parser.add_argument("--caches", nargs="+", choices=["dynamic", "static"], default=["dynamic"], help=static)
    parser.add_argument("--only", nargs="+", help="names of the rows to run beside plain decoding")
    parser.add_argument("--samples", type=int, default=0, help="K > 0: K samples of each prompt instead")
    parser.add_argument("--two-models", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dtype, device = getattr(torch, arguments.dtype), arguments.device
    model = build(arguments.size, dtype, device, layers=arguments.layers)
    steer_model(
        model, Steering(strengths=[1.0])
    )  # from here on the head computes in float32, in plain decoding too
    for prompt, batch in itertools.product(arguments.prompt, arguments.batch):
        if arguments.samples:
            print(
                f"\n{arguments.samples} samples, prompt {prompt}, batch {batch}, {arguments.tokens} new tokens\n"
            )
            runs = sampling(model, arguments, prompt, batch)
            memory = {name: peak_memory(run, device) for name, run in runs.items()}
            timing = interleaved(runs, arguments.rounds, device)
            print_table(timing, next(iter(runs)), unit="batch of answers", memory=memory)
            continue
        for cache in arguments.caches:
            print(f"\nprompt {prompt}, batch {batch}, {cache} cache\n", flush=True)
            steps(model, arguments, prompt, batch, cache)
            forget(model, device)


if __name__ == "__main__":
    main()
