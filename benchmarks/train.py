"""Warm start: tokens per second of SteeringTrainer against transformers' Trainer, same model, adapter and batches.

    python benchmarks/train.py
    python benchmarks/train.py --device cuda --hidden 2048 --layers 16 --batch 16 --longest 512 --precision bf16

Both train a LoRA adapter on a random Llama with the same AdamW, schedule, data type and padded batches, without
evaluation, clipping or progress bar; the clock runs from the end of the third step to the end of the last, data
loading and logging included; a GPU is waited for at these two points only. Runs take turns. The busy machine is
cancelled step by step: each step's time is its median over the rounds, and both train on the same batch in the
same step.
"""

import argparse
import itertools
import logging
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from peft import LoraConfig, get_peft_model
from timing import synchronise
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from svd_lightning import SteeredLanguageModel
from svd_lightning.commands.demo import BASE_FOLDER
from svd_lightning.data.collate import ScoringCollator
from svd_lightning.data.tokenise import EncodedExample
from svd_lightning.models import Backbone
from svd_lightning.trainer import SteeringTrainer

OURS, THEIRS = "SteeringTrainer", "transformers Trainer"
WARM = 3
"""Steps before the clock starts."""
NEEDED = ("input_ids", "attention_mask", "labels")
RATE = 1e-3


@dataclass
class StepClock(L.Callback):
    """When each step ended, and its loss; on a GPU, when it was handed over, but for the first and the last."""

    device: str
    steps: int
    times: list[float] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)

    def seconds(self) -> list[float]:
        """Of every step after the warm ones."""
        return [after - before for before, after in itertools.pairwise(self.times[WARM - 1 :])]

    def tick(self) -> None:
        if len(self.times) in (WARM - 1, self.steps - 1):
            synchronise(self.device)
        self.times.append(time.perf_counter())

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.tick()
        self.losses.append(outputs["loss"])


class StepEnd(TrainerCallback):
    """The same clock for transformers."""

    def __init__(self, clock: StepClock) -> None:
        self.clock = clock

    def on_step_end(self, *arguments: Any, **options: Any) -> None:
        self.clock.tick()


class FixedOrderTrainer(Trainer):
    """transformers' Trainer on a given loader."""

    clock: StepClock

    def get_train_dataloader(self) -> DataLoader:
        return self.train_dataset  # type: ignore[return-value]

    def training_step(self, *arguments: Any, **options: Any) -> Tensor:
        loss = super().training_step(*arguments, **options)
        self.clock.losses.append(loss)
        return loss


def rows(count: int, vocabulary: int, longest: int = 140) -> list[EncodedExample]:
    """Prompts and completions of 20 to `longest` random tokens together."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(20, longest, (count,), generator=generator).tolist()
    ids = [torch.randint(3, vocabulary, (length,), generator=generator) for length in lengths]
    return [
        EncodedExample(number, str(number), "", "", each[: len(each) // 2], each[len(each) // 2 :])
        for number, each in enumerate(ids)
    ]


def loader(examples: list[EncodedExample], batch_size: int, *, needed_only: bool) -> DataLoader:
    collate = ScoringCollator(pad_token_id=0)

    def needed(batch: list[EncodedExample]) -> dict[str, Any]:
        return {name: value for name, value in collate(batch).items() if name in NEEDED or not needed_only}

    return DataLoader(examples, batch_size=batch_size, collate_fn=needed)  # type: ignore[arg-type]


def adapter() -> LoraConfig:
    return LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def ours(base: Path, data: DataLoader, precision: str, folder: Path, clock: StepClock) -> None:
    L.seed_everything(0, verbose=False)
    module = SteeredLanguageModel(
        Backbone(name_or_path=str(base)),
        adapter(),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0),
    )
    trainer = SteeringTrainer(
        max_epochs=1,
        accelerator=clock.device,
        devices=1,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
        logger=TensorBoardLogger(folder, name="ours"),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock],
    )
    trainer.fit(module, train_dataloaders=data)


def theirs(base: Path, data: DataLoader, precision: str, folder: Path, clock: StepClock) -> None:
    L.seed_everything(0, verbose=False)
    model = get_peft_model(Backbone(name_or_path=str(base)).load_model(), adapter())
    options = TrainingArguments(
        output_dir=str(folder / "theirs"),
        num_train_epochs=1,
        learning_rate=RATE,
        optim="adamw_torch",
        max_grad_norm=0.0,
        lr_scheduler_type="linear",
        logging_steps=50,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=clock.device == "cpu",
        bf16=precision == "bf16",
    )
    trainer = FixedOrderTrainer(model, options, train_dataset=data, callbacks=[StepEnd(clock)])  # type: ignore[arg-type]
    trainer.clock = clock
    trainer.train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--longest", type=int, default=140, help="tokens of the longest row")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    config = LlamaConfig(
        vocab_size=16000,
        hidden_size=arguments.hidden,
        intermediate_size=arguments.hidden * 8 // 3,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.hidden // 64,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    size = sum(parameter.numel() for parameter in model.parameters())
    examples = rows(arguments.steps * arguments.batch, config.vocab_size, arguments.longest)
    tokens = sum(map(len, examples[WARM * arguments.batch :]))
    runs = {OURS: (ours, False), THEIRS: (theirs, True)}
    seconds: dict[str, list[list[float]]] = {name: [] for name in runs}
    losses: dict[str, Tensor] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model.save_pretrained(folder / "base")
        Backbone(name_or_path=str(BASE_FOLDER)).load_tokenizer().save_pretrained(folder / "base")
        del model
        for number in range(arguments.rounds + 1):
            for run_name, (run, needed_only) in runs.items():
                data = loader(examples, arguments.batch, needed_only=needed_only)
                clock = StepClock(arguments.device, arguments.steps)
                run(folder / "base", data, arguments.precision, folder, clock)
                losses[run_name] = torch.stack(clock.losses).float()
                if number:  # the first round warms up
                    seconds[run_name].append(clock.seconds())

    apart = (losses[OURS] - losses[THEIRS]).abs().max().item()
    print(
        f"Llama of {size / 1e6:.1f} M parameters, LoRA r 8, {arguments.precision}, batch {arguments.batch},",
        end=" ",
    )
    print(f"{arguments.device},")
    print(f"{tokens} tokens per run, {arguments.rounds} rounds; largest difference of a loss: {apart:.1e}\n")
    print_result(seconds, tokens)


def print_result(seconds: dict[str, list[list[float]]], tokens: int) -> None:
    """Markdown: tokens per second from each step's median and from its fastest round, and their ratios."""
    times = {name: torch.tensor(rounds) for name, rounds in seconds.items()}
    medians = {name: time.median(dim=0).values for name, time in times.items()}
    fastest = {name: time.min(dim=0).values for name, time in times.items()}
    print("| | tokens per second: median rounds | fastest rounds |\n|---|---|---|")
    for name in times:
        print(f"| {name} | {tokens / medians[name].sum():.0f} | {tokens / fastest[name].sum():.0f} |")
    middle, best = (found[THEIRS].sum() / found[OURS].sum() for found in (medians, fastest))
    pairs = (times[THEIRS].sum(dim=1) / times[OURS].sum(dim=1)).sort().values
    print(f"\nOurs over theirs: {middle:.3f} (median rounds), {best:.3f} (fastest rounds); ", end="")
    print(f"whole rounds {pairs[0]:.2f} to {pairs[-1]:.2f}")


if __name__ == "__main__":
    main()
