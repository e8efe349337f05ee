"""Every candidate of a calibration on a real model: tasks × warm starts, with paired intervals on the test split.

    OMP_NUM_THREADS=1 python benchmarks/candidates.py MODEL_FOLDER RESULTS_FOLDER

Warm starts are LoRA (r 8, q and v) of three lengths: barely begun, stopped half way, and a longer one
with a large learning rate. The guard may choose any recipe and correction. A finished cell is a JSON file in the
results folder, where a second run finds it; the Markdown table of each is printed.
"""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from jsonargparse import auto_cli
from peft import LoraConfig
from quiet import quiet_trainer

from svd_lightning import SteeredLanguageModel, SteeringCalibration
from svd_lightning.data import CommonsenseJSON, CompletionDataModule, JSONLData
from svd_lightning.files import write_json, write_text
from svd_lightning.models import Backbone

SHARED = Path("../shared/data")


@dataclass
class WarmStart:
    """How far an adapter is trained."""

    name: str
    steps: int
    lr: float


WARM_STARTS = (
    WarmStart("barely begun", 15, 5e-5),
    WarmStart("half way", 60, 1e-4),
    WarmStart("hot", 120, 5e-4),
)
ANSWERS = "truthfulqa"
TASKS = ("boolq", "winogrande", ANSWERS, "ARC-Easy")


def run(
    model: str,
    results: Path,
    *,
    tasks: tuple[str, ...] = TASKS,
    calibration: int = 100,
    test: int = 100,
    seed: int = 0,
) -> None:
    """Fit, calibrate and test every cell that has no result yet, and print all tables."""
    for task in tasks:
        for warm in WARM_STARTS:
            path = results / f"{task}-{warm.steps}.json"
            if not path.exists():
                L.seed_everything(0, verbose=False)
                write_json(path, _cell(model, task_data(task, results, calibration=calibration, test=test), warm))
            print(_table(task, warm, json.loads(path.read_text(encoding="utf-8"))), flush=True)


def task_data(task: str, folder: Path, *, calibration: int, test: int) -> CompletionDataModule:
    """Return the rows of a task in `../shared/data`, with as many for calibration and test."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = 700 + test
    if task == ANSWERS:
        with (SHARED / "TruthfulQA.csv").open(encoding="utf-8", newline="") as file:
            found = list(csv.DictReader(file))[:rows]
        lines = [
            json.dumps({"prompt": f"Question: {row['Question']}\nAnswer:", "completion": f" {row['Best Answer']}"})
            for row in found
        ]
        write_text(folder / f"{task}.jsonl", "\n".join(lines) + "\n")
        return JSONLData(
            folder / f"{task}.jsonl",
            calibration=calibration,
            validation=8,
            test=test,
            batch_size=4,
            eval_batch_size=8,
        )
    found = json.loads((SHARED / f"commonsense/{task}.test.json").read_text(encoding="utf-8"))[:rows]
    for split, part in (("train", found[test:]), ("test", found[:test])):
        write_json(folder / f"{task}.{split}.json", part)
    return CommonsenseJSON(
        folder / f"{task}.train.json",
        test_path=folder / f"{task}.test.json",
        calibration=calibration,
        validation=8,
        batch_size=4,
        eval_batch_size=1,  # the test reads the prompt of a question once
    )


def untrained(model: str, lr: float, *, dora: bool = False) -> SteeredLanguageModel:
    """Return the module that every warm start begins with."""
    return SteeredLanguageModel(
        Backbone(model, dtype="float32"),
        LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], use_dora=dora),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=lr),
        generation={"max_new_tokens": 32},
    )


def _cell(model: str, data: CompletionDataModule, warm: WarmStart) -> dict:
    module = untrained(model, warm.lr)
    calibrating = SteeringCalibration(any_recipe=True, show_table=False)
    quiet_trainer(".", calibrating, max_steps=warm.steps).fit(module, datamodule=data)
    quiet_trainer(".").test(module, datamodule=data, verbose=False)
    assert module.test_results is not None
    return {"calibration": module.calibration, "metrics": module.test_results.metrics}


def _table(task: str, warm: WarmStart, cell: dict) -> str:
    record, found = cell["calibration"], cell["metrics"]
    metrics = [name for name in ("NLL", "MC1", "accuracy") if name in found["metrics"]]
    scored = {one["name"]: one for one in record["corrections"]}
    scored |= {(tuple(one["rules"]), one["estimator"]): one for one in record["candidates"]}
    lines = [
        f"\n**{task}, {warm.name}** ({warm.steps} steps at {warm.lr:g}): {record['message']}\n",
        f"| | held-out gain | drift | {' | '.join(metrics)} |",
        "|---|---|---|" + "---|" * len(metrics),
    ]
    for name in found["metrics"][metrics[0]]:
        about = found["distributions"].get(name, {})
        key = about.get("correction") or (tuple(about.get("rules", ())), about.get("estimator"))
        one = scored.get(key) if name != "steered" or _used(about) != "tuned" else None
        gain = _gain(one["gain"]) if one else ""
        drift = f"{one['drift']:.3f}" if one else ""
        label = f"**{name}** ({_used(about)})" if name == "steered" else name
        values = " | ".join(_text(found["metrics"][metric][name], metric) for metric in metrics)
        lines.append(f"| {label} | {gain} | {drift} | {values} |")
    return "\n".join(lines)


def _used(about: dict) -> str:
    return about.get("correction") or (" + ".join(about["rules"]) if any(about["strengths"]) else "tuned")


def _gain(gain: dict) -> str:
    return f"{gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"


def _text(entry: dict, metric: str) -> str:
    scale, digits = (1.0, 3) if metric == "NLL" else (100.0, 1)
    text = f"{scale * entry['value']:.{digits}f}"
    if entry.get("low") is None:
        return text
    gain, low, high = (f"{scale * entry[key]:+.{digits}f}" for key in ("gain", "low", "high"))
    return f"{text} ({gain} [{low}, {high}])"


if __name__ == "__main__":
    auto_cli(run)
