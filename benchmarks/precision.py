"""Rounding noise of log p − log q on a real model, what it does to strengths, and what each arithmetic costs.

    python benchmarks/precision.py --model /models/smollm2-135m

Two warm starts of LoRA on TruthfulQA's best answers, light and normal, in float32 (bfloat16 is slow backwards on
most CPUs). Then the same adapter is measured in each arithmetic: signal and noise (`NoiseMeter`), strengths by the
paper's mean and by line search on one calibration split, and CPU seconds of the calibration pass and of a steered
token, as ratios.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lightning as L
import torch
from jsonargparse import auto_cli
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from quiet import quiet_trainer
from torch import nn

from svd_lightning import SteeredLanguageModel
from svd_lightning.data import JSONLData, TruthfulQA
from svd_lightning.decoding import steer_model
from svd_lightning.models import Backbone, attach_new
from svd_lightning.objective import objective
from svd_lightning.scoring import NoiseMeter, collector
from svd_lightning.steering import KLGradient, NaturalGradient, Steering
from svd_lightning.strength import LineSearch, Mean

QUESTIONS = Path(__file__).parents[2] / "shared/data/TruthfulQA.csv"
ARITHMETICS = {
    "bfloat16, head too": {"dtype": "bfloat16"},
    "bfloat16": {"dtype": "bfloat16"},
    "bfloat16, float32 residual": {"dtype": "bfloat16", "float32_residual": True},
    "float32": {"dtype": "float32"},
}
RECIPES = ((KLGradient(), Mean()), (KLGradient(), LineSearch()), (NaturalGradient(), LineSearch()))
LORA = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])


class NarrowHead(nn.Linear):
    """Computes in the number format of its weights; `widen_head` leaves it alone."""


def precision(*, model: str, steps: int = 60, examples: int = 40, tokens: int = 24, seed: int = 0) -> None:
    """Print a Markdown table for each warm start.

    Args:
        model: folder of the base.
        steps: optimizer steps of a warm start, of 4 answers each.
        examples: size of the calibration split.
        tokens: how many are decoded for the time of one.
        seed: of the adapter and the order of training.
    """
    with tempfile.TemporaryDirectory() as folder:
        data = _data(Path(folder), examples)
        for name, rate in (("light", 1e-5), ("normal", 2e-4)):
            L.seed_everything(seed, verbose=False)
            module = SteeredLanguageModel(
                Backbone(model, dtype="float32"),
                LORA,
                optimizer=lambda parameters, rate=rate: torch.optim.AdamW(parameters, lr=rate),
            )
            trainer = quiet_trainer(folder, max_steps=steps)
            trainer.fit(module, datamodule=data)
            adapter = get_peft_model_state_dict(module.peft_model)
            batches = list(data.calibration_dataloader())
            print(f"\n{Path(model).name}, {name} warm start ({steps} steps at {rate:g})\n")
            print(
                "| arithmetic | signal | noise | share | mean | line search | line search, log p/q | pass | step |"
            )
            print("|---|---|---|---|---|---|---|---|---|")
            first: tuple[float, float] | None = None
            for arithmetic, options in ARITHMETICS.items():
                peft_model = _adapted(Backbone(model, **options), adapter, plain_head="head" in arithmetic)
                numbers, times = _measure(peft_model, batches, tokens)
                first = first or times
                ratios = [f"{here / there:.2f}" for here, there in zip(times, first, strict=True)]
                print(f"| {arithmetic} | {' | '.join([*numbers, *ratios])} |", flush=True)


def _adapted(backbone: Backbone, adapter: dict[str, torch.Tensor], *, plain_head: bool) -> PeftModel:
    """The base in one arithmetic with the adapter; on request with a head of bfloat16, as transformers has it."""
    peft_model = attach_new(backbone.load_model(), LORA).eval()
    set_peft_model_state_dict(peft_model, adapter)
    if plain_head:
        head = peft_model.get_base_model().get_output_embeddings()
        head.__class__ = NarrowHead
        head.weight = nn.Parameter(head.weight.bfloat16(), requires_grad=False)
    return peft_model


def _measure(peft_model: PeftModel, batches: list, tokens: int) -> tuple[list[str], tuple[float, float]]:
    """Signal, noise and strengths as text, and CPU seconds of the calibration pass and of a steered token."""
    collecting = collector(peft_model, Steering())
    meter = NoiseMeter(peft_model, 0.1)
    with torch.no_grad():
        seconds = _seconds(lambda: [collecting.add(batch) for batch in batches])
        for batch in batches:
            if not meter.enough():
                meter.add(batch)
    table, noise = collecting.result(), meter.result()
    strengths = [
        estimator(objective(table, (rule,), penalty=0.0)).strengths[0]
        for rule, estimator in (
            (KLGradient(), Mean()),
            (KLGradient(), LineSearch()),
            (NaturalGradient(), LineSearch()),
        )
    ]
    steered = steer_model(peft_model, Steering(strengths=[1.0]))
    prompt = {
        "input_ids": batches[0]["input_ids"][:1, :16],
        "attention_mask": torch.ones(1, 16, dtype=torch.int64),
    }
    decode: Callable[[int], float] = lambda count: _seconds(  # noqa: E731
        lambda: steered.generate(**prompt, min_new_tokens=count, max_new_tokens=count, do_sample=False)
    )
    decode(2)
    step = (decode(tokens) - decode(2)) / (tokens - 2)
    texts = [f"{noise['signal']:.3f}", f"{noise['noise']:.4f}", f"{noise['share']:.2f}"]
    return [*texts, *(f"{strength:.3g}" for strength in strengths)], (seconds, step)


def _seconds(run: Callable[[], object]) -> float:
    """CPU seconds: other jobs on the machine do not count."""
    start = time.process_time()
    run()
    return time.process_time() - start


def _data(folder: Path, examples: int) -> JSONLData:
    path = folder / "answers.jsonl"
    rows = TruthfulQA(path=str(QUESTIONS)).load()
    lines = [json.dumps({"prompt": row.prompt, "completion": row.completion}) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return JSONLData(str(path), calibration=examples, validation=None, batch_size=4, eval_batch_size=8)


if __name__ == "__main__":
    torch.set_num_threads(1)
    auto_cli(precision)
