"""Price of a steered token: one pass, two passes, PEFT's adapter_names and two models against plain decoding.

python benchmarks/decode.py --size 110m --dtype bfloat16 --batch 1
"""

import argparse
import copy
from collections.abc import Callable
from unittest.mock import patch

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from timing import Clock, interleaved_steps, peak_memory, print_table
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


def candidates(arguments: argparse.Namespace) -> dict[str, Callable[[Clock], object]]:
    device, dtype = arguments.device, getattr(torch, arguments.dtype)
    model, steering = build(arguments.size, dtype, device), Steering(strengths=[1.0])
    vocabulary = model.config.vocab_size
    ids = torch.randint(3, vocabulary, (arguments.batch, arguments.prompt), device=device)
    mask = torch.ones_like(ids)
    options = {
        "max_new_tokens": arguments.tokens,
        "min_new_tokens": arguments.tokens,
        "do_sample": False,
        "pad_token_id": 0,
    }
    if arguments.static:
        options["cache_implementation"] = "static"
    one, two = steer_model(model, steering), two_pass_model(model, steering)
    doubled = {"input_ids": torch.cat([ids, ids]), "attention_mask": torch.cat([mask, mask])}
    names = ["default"] * arguments.batch + ["__base__"] * arguments.batch
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
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="110m")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="bfloat16")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=32, help="tokens of each prompt")
    parser.add_argument("--tokens", type=int, default=32, help="new tokens")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--static", action="store_true", help="static cache: compiled steps, CUDA graphs on a GPU")
    parser.add_argument("--two-models", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    runs = candidates(arguments)
    first, later = interleaved_steps(runs, arguments.rounds, arguments.device)
    memory = {
        n: peak_memory(lambda run=run: run(Clock(arguments.device)), arguments.device) for n, run in runs.items()
    }
    print_table(later, PLAIN, unit="token", memory=memory)
    print()
    print_table(first, PLAIN, unit="first token", memory={})


if __name__ == "__main__":
    main()
