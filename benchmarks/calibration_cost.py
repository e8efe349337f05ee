"""What a calibration costs, against the two bare forwards over the same tokens, in one run.

python benchmarks/calibration_cost.py                         # or --shape 8b --device cuda
"""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from calibration import JOINT, SHARED, fill, small_model
from decode import build
from jsonargparse import auto_cli
from timing import synchronise
from train import loader, rows

from svd_lightning.calibration import PAPER_ALPHAS, calibrate
from svd_lightning.data import TruthfulQA
from svd_lightning.data.questions import EncodedQuestion
from svd_lightning.objective import ReferenceSnapshot
from svd_lightning.steering import Steering
from svd_lightning.strength import LineSearch

Rows = tuple[Any, list[dict[str, Any]], Sequence[EncodedQuestion]]
"""A model, batches, and the questions that they are of."""


def cost(
    *, examples: int = 400, rounds: int = 5, shape: str | None = None, device: str = "cpu", longest: int = 140
) -> None:
    """A masked joint calibration with guard and α sweep, against the two bare forwards.

    Args:
        examples: size of the calibration split.
        rounds: paired repetitions; medians are printed.
        shape: a random Llama in bfloat16 (`tiny`, `110m`, `8b`) on random rows; None is wiki-tiny on TruthfulQA.
        device: where it runs.
        longest: tokens of the longest random row.
    """
    recipe = Steering(JOINT, alpha=0.1, penalty=0.0)
    if shape is None:
        model, batches, questions = _wiki_tiny(examples)
    else:
        model, batches, questions = _random(shape, device, examples, longest)
    model, batches = model.to(device), [_on(device, batch) for batch in batches]
    snapshot = ReferenceSnapshot()
    filled = partial(fill, model, recipe, batches, questions=questions)
    table = filled(snapshot=snapshot)
    solve = partial(calibrate, table, recipe, LineSearch(), alphas=PAPER_ALPHAS)
    steps: dict[str, Callable[[], Any]] = {
        "two bare forwards": lambda: _bare(model, batches),
        "pass, new snapshot": lambda: filled(snapshot=ReferenceSnapshot()),
        "pass, snapshot reused": lambda: filled(snapshot=snapshot),
        "joint fit, guard, α sweep": lambda: solve(others=False),
        "the other recipes too": lambda: solve(others=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            synchronise(device)
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    bare = medians["two bare forwards"]
    print(
        f"{table.num_tokens} tokens of {table.num_examples} examples, {device}, {torch.get_num_threads()} threads"
    )
    for name, value in medians.items():
        print(f"{name:26s} {value:7.3f} s  {value / bare:5.2f} × two bare forwards")
    for name in ("pass, new snapshot", "pass, snapshot reused"):
        for solver in ("joint fit, guard, α sweep", "the other recipes too"):
            whole = medians[name] + medians[solver]
            share = medians[solver] / whole
            print(f"{name} + {solver}: {whole / bare:.2f} × two bare forwards, solver {share:.0%} of it")


def _bare(model: Any, batches: list[dict[str, Any]]) -> None:
    with torch.no_grad():
        for batch in batches:
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
            model(**inputs)
            with model.disable_adapter():
                model(**inputs)


def _wiki_tiny(examples: int) -> Rows:
    """wiki-tiny with a random adapter, and batches of TruthfulQA's answers."""
    module = small_model("truthfulqa", joint=True)
    module.configure_model()
    data = TruthfulQA(path=str(SHARED / "data/TruthfulQA.csv"), calibration=examples, test=100, batch_size=8)
    data.tokenizer = module.tokenizer
    model = module.peft_model.eval()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    return model, list(data.calibration_dataloader()), data.all_choices("calibration")


def _random(shape: str, device: str, examples: int, longest: int) -> Rows:
    """A random model that is as sure as a trained one, and batches of random rows.

    Logits with a standard deviation of 4 leave some 15 of 128,000 tokens within a tenth of the best one.
    """
    model = build(shape, torch.bfloat16, device)
    base = model.get_base_model()
    with torch.no_grad():
        base.model.norm.weight.mul_(4.0 / (base.config.initializer_range * base.config.hidden_size**0.5))
    drawn = rows(examples, base.config.vocab_size, longest)
    return model, list(loader(drawn, 8, needed_only=False)), ()


def _on(device: str, batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


if __name__ == "__main__":
    auto_cli(cost)
