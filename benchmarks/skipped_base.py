"""What a step of two passes costs where the base waits until it is needed, against both passes at every step.

    OMP_NUM_THREADS=1 python benchmarks/skipped_base.py MODEL_FOLDER SCRATCH_FOLDER

Warm-starts DoRA (r 8, q and v, half way) and completes test prompts greedily, steered
by the paper's direction with α = 0.1 and λ = −∞. Prints a Markdown row for each task and batch size: the share of
steps without the base, and CPU time per step over that of the tuned model alone, the three of a batch in turn.
"""

import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import lightning as L
import torch
from evidence_tasks import Sizes, load_task
from jsonargparse import auto_cli
from quiet import quiet_trainer
from warm_starts import WARM_STARTS, untrained

from svd_lightning import SteeredLanguageModel
from svd_lightning.data import Batch, CompletionDataModule
from svd_lightning.decoding import steer_model
from svd_lightning.decoding.two_pass import TwoPassModel
from svd_lightning.steering import UNSTEERED, Steering


def measure(
    model: str,
    scratch: Path,
    *,
    tasks: tuple[str, ...] = ("truthfulqa", "ARC-Easy"),
    batches: tuple[int, ...] = (1, 4),
    prompts: int = 12,
    tokens: int = 32,
) -> None:
    """Measure every task and batch size on so many test prompts."""
    print("| task | batch | steps without the base | both at every step | base waits | ratio of the two |")
    print("|---|---|---|---|---|---|")
    for task in tasks:
        data, module = _warm_start(model, scratch, task)
        rows = data.rows("test")[:prompts]
        for size in batches:
            data.eval_batch_size = size
            waiting, both, alone, skipped = 0.0, 0.0, 0.0, []
            for batch in data.prompt_dataloader(rows):
                seconds, shares = _seconds(module, batch, tokens)
                waiting, both, alone = waiting + seconds[0], both + seconds[1], alone + seconds[2]
                skipped += shares
            share = sum(skipped) / len(skipped)
            times = f"{both / alone:.2f} | {waiting / alone:.2f} | {waiting / both:.2f}"
            print(f"| {task} | {size} | {share:.0%} | {times} |", flush=True)


def _warm_start(model: str, scratch: Path, task: str) -> tuple[CompletionDataModule, SteeredLanguageModel]:
    L.seed_everything(0, verbose=False)
    warm = WARM_STARTS["half way"]
    data, module = load_task(task, scratch, Sizes(480, 8, 64, 0)).data, untrained(model, "dora", warm)
    quiet_trainer(scratch, max_steps=warm.steps).fit(module, datamodule=data)
    data.setup("test")
    return data, module.eval()


def _seconds(module: SteeredLanguageModel, batch: Batch, tokens: int) -> tuple[list[float], list[bool]]:
    """Return CPU seconds per step where the base waits, with both at every step, and of the tuned model alone.

    The second result says of every step of the first kind whether the base was left out. Each runs twice, and the
    faster run counts.
    """
    steered = steer_model(module.peft_model, Steering(strengths=(1.0,)))
    tuned = steer_model(module.peft_model, UNSTEERED["tuned"])
    skips, left_out = TwoPassModel._skips, list[bool]()

    def watched(*arguments: object) -> bool:
        left_out.append(skips(*arguments))  # type: ignore[arg-type]
        return left_out[-1]

    def run(model: torch.nn.Module, decide: Callable[..., bool]) -> float:
        ids = batch["input_ids"]
        with patch.object(TwoPassModel, "_skips", decide):
            start = time.process_time()
            found = model.generate(  # type: ignore[operator]
                ids, attention_mask=batch["attention_mask"], max_new_tokens=tokens, do_sample=False
            )
            return (time.process_time() - start) / (found.shape[1] - ids.shape[1])

    ways = ((steered, watched), (steered, lambda *arguments: False), (tuned, skips))
    rounds = [[run(*way) for way in ways] for _ in range(2)]
    return [min(pair) for pair in zip(*rounds, strict=True)], left_out


if __name__ == "__main__":
    auto_cli(measure)
