"""Memory and time of scoring: chunks through the head against the full logits of both models; and prompt reuse.

python benchmarks/scoring.py --vocabulary 152000 --hidden 512 --batch 4 --length 512
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from timing import interleaved, peak_memory, print_table
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from svd_lightning.functional import kl_divergence, label_nll
from svd_lightning.models.hidden import SharedPrompts, base_hidden_states, tuned_hidden_states
from svd_lightning.models.switch import adapter_off
from svd_lightning.scoring.labels import score_tokens
from svd_lightning.scoring.tokens import chunk_length
from svd_lightning.steering import Steering

CHUNKED, FULL = "chunks of the default", "full logits of both models"


def build(arguments: argparse.Namespace) -> PeftModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=arguments.vocabulary,
        hidden_size=arguments.hidden,
        intermediate_size=4 * arguments.hidden,
        num_hidden_layers=arguments.layers,
        num_attention_heads=8,
        tie_word_embeddings=True,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config).to(getattr(torch, arguments.dtype)).to(arguments.device)
    return get_peft_model(
        model, LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    ).eval()


@torch.no_grad()
def full_logits(model: PeftModel, batch: dict[str, Tensor], steering: Steering) -> list[Tensor]:
    """The obvious way: [B, T, V] of both models, then everything at once."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    tuned = model(**inputs).logits[:, :-1]
    with adapter_off(model) as base_model:
        base = base_model(**inputs).logits[:, :-1]
    labels = batch["labels"][:, 1:].clamp_min(0)
    found = [label_nll(logits, labels) for logits in (base, tuned, steering(tuned, base))]
    return [*found, kl_divergence(tuned, base)]


@torch.no_grad()
def options_states(model: PeftModel, prompt: Tensor, options: Tensor, *, shared: bool) -> None:
    """Hidden states of both models over K options of one prompt: [1, P] and [K, C]."""
    ids = torch.cat([prompt.expand(len(options), -1), options], dim=1)
    mask, group = torch.ones_like(ids), torch.zeros(len(options), dtype=torch.int64)
    alike = SharedPrompts(prompt.shape[1], group) if shared else None
    tuned_hidden_states(model, ids, mask, shared=alike)
    base_hidden_states(model, ids, mask, shared=alike)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--vocabulary", type=int, default=152_000)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument(
        "--chunk", type=int, nargs="*", default=[], help="other chunks than the default, in tokens"
    )
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="also the full logits: 11 GiB at the default shape")
    parser.add_argument("--options", type=int, default=0, help="K > 0: time a prompt shared by K options instead")
    parser.add_argument("--option-length", type=int, default=12)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = build(arguments)
    shape, device = (arguments.batch, arguments.length), arguments.device
    ids = torch.randint(3, arguments.vocabulary, shape, device=device)
    if arguments.options:
        options = torch.randint(
            3, arguments.vocabulary, (arguments.options, arguments.option_length), device=device
        )
        reuse = {
            "every option with its prompt": lambda: options_states(model, ids[:1], options, shared=False),
            "prompt once, cache repeated": lambda: options_states(model, ids[:1], options, shared=True),
        }
        timing = interleaved(reuse, arguments.rounds, device)
        print_table(timing, "every option with its prompt", unit="question", memory={})
        return
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    steering = Steering(strengths=[1.0], penalty=0.0)

    @torch.no_grad()
    def chunked(size: int | None = None) -> object:
        return score_tokens(model, batch, steering, chunk_size=size)

    print(f"The default chunk has {chunk_length(model)} tokens.\n")
    runs: dict[str, Callable[[], object]] = {CHUNKED: chunked}
    runs |= {f"chunks of {size}": partial(chunked, size) for size in arguments.chunk}
    if arguments.full:
        runs[FULL] = lambda: full_logits(model, batch, steering)
    # Before the timing: later, the allocator serves part of the peak from what it kept.
    memory = {name: peak_memory(run, device) for name, run in runs.items()}
    timing = interleaved(runs, arguments.rounds, device)
    print_table(timing, CHUNKED, unit="batch", memory=memory)


if __name__ == "__main__":
    main()
