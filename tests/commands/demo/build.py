"""Train and write the demo's base model: `python -m tests.commands.demo.build OUT`.

The package ships the result in `svd_lightning/commands/demo/base/`; this script makes the same weights again.
"""

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from svd_lightning.commands.demo.task import BASE, BOS, EOS, PAD, SPECIALS, UNK, VOCABULARY


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Make the tokenizer of the diary language, which splits at spaces and puts <s> in front."""
    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(VOCABULARY)}, unk_token=SPECIALS[UNK])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[(SPECIALS[BOS], BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIALS[BOS],
        eos_token=SPECIALS[EOS],
        pad_token=SPECIALS[PAD],
        unk_token=SPECIALS[UNK],
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=128,
    )


def batches(tokenizer: PreTrainedTokenizerFast, examples: list[dict[str, str]], size: int) -> list[Tensor]:
    """Tokenise whole diaries, group them by length, and pad them on the right: int64 [size, T] each."""
    rows = [tokenizer(f"{example['prompt']} {example['completion']}")["input_ids"] + [EOS] for example in examples]
    rows.sort(key=len)
    groups = [rows[start : start + size] for start in range(0, len(rows), size)]
    return [torch.tensor([row + [PAD] * (len(group[-1]) - len(row)) for row in group]) for group in groups]


def train(
    *, steps: int, examples: int, batch_size: int = 64, peak_lr: float = 4e-3, seed: int = 0
) -> LlamaForCausalLM:
    """Train the tiny Llama on base diaries; the same arguments give the same weights."""
    data = batches(build_tokenizer(), BASE.sample(examples, seed=seed), batch_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(VOCABULARY),
                hidden_size=64,
                intermediate_size=160,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=128,
                tie_word_embeddings=True,
                bos_token_id=BOS,
                eos_token_id=EOS,
                pad_token_id=PAD,
            )
        )
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_lr, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak_lr, total_steps=steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed + 1)
    model.train()
    for _ in range(steps):
        batch = data[int(torch.randint(len(data), (), generator=generator))]
        loss = model(input_ids=batch, labels=batch.masked_fill(batch == PAD, -100)).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def build(out: Path, *, steps: int = 2000, examples: int = 30_000) -> None:
    """Train the base and write it, with its tokenizer, in Hugging Face format."""
    model = train(steps=steps, examples=examples)
    model.generation_config = GenerationConfig(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, max_new_tokens=64
    )
    model.save_pretrained(out)
    build_tokenizer().save_pretrained(out)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Train the demo's base model.")
    parser.add_argument("out", type=Path, help="folder to write")
    out = parser.parse_args().out
    torch.set_num_threads(2)  # as for the shipped weights: the order of sums changes the last digits
    build(out)
    print(f"base model written to {out}")


if __name__ == "__main__":
    main()
