"""Everything one can do with a warm start and labelled rows, side by side on a real model.

    OMP_NUM_THREADS=1 python benchmarks/evidence.py MODEL_FOLDER RESULTS_FOLDER

Cells are tasks × adapters × warm starts. Each compares on the test split, paired with the tuned model: base, the
paper's mean, line search, all rules jointly, temperature, prior, label bias, calibrated head, adapter scale, what
`auto` chose of them, and training on with the calibration rows for one epoch and for two. Answers in free text are
decoded too. The warm start "none" leaves the adapter at zero: its corrections are those of the base. A finished
cell is a JSON file in the results folder, where a second run finds it; its Markdown table is printed.
"""

import time
from itertools import product
from pathlib import Path
from typing import Any

import lightning as L
from evidence_decoding import decode_all, decode_tuned, measured
from evidence_tables import table
from evidence_tasks import Sizes, Task, load_task
from jsonargparse import auto_cli
from quiet import quiet_trainer
from warm_starts import WARM_STARTS, WarmStart, untrained

from svd_lightning import SteeredLanguageModel, SteeringCalibration
from svd_lightning.files import write_json
from svd_lightning.metrics import ChoiceScores, CompletionScores
from svd_lightning.scoring.summary import entry


def run(
    model: str,
    results: Path,
    *,
    tasks: tuple[str, ...] = ("truthfulqa", "boolq", "winogrande", "ARC-Easy"),
    adapters: tuple[str, ...] = ("lora",),
    warm: tuple[str, ...] = ("barely begun", "half way", "hot"),
    seeds: tuple[int, ...] = (0,),
    train: int = 480,
    calibration: int = 100,
    test: int = 100,
    decode: int = 48,
    dtype: str = "float32",
) -> None:
    """Measure every cell that has no result yet, with the base in a dtype, and print all tables."""
    sizes = Sizes(train, calibration, test, decode)
    for task, adapter, start, seed in product(tasks, adapters, warm, seeds):
        path = results / f"{task}-{adapter}-{start.replace(' ', '-')}-{seed}.json"
        if not path.exists():
            L.seed_everything(seed, verbose=False)
            rows, warm_start = load_task(task, results, sizes), WARM_STARTS[start]
            module = untrained(model, adapter, warm_start, new_tokens=rows.new_tokens or 8, dtype=dtype)
            about = {"model": Path(model).name, "task": task, "adapter": adapter, "warm": start, "seed": seed}
            scale = adapter in ("lora", "ia3")
            write_json(path, about | {"dtype": dtype} | _cell(module, rows, warm_start, sizes, scale=scale))
        print(table(path), flush=True)


def _cell(
    module: SteeredLanguageModel, task: Task, warm: WarmStart, sizes: Sizes, *, scale: bool
) -> dict[str, Any]:
    calibrating = SteeringCalibration(any_recipe=True, show_table=False, scale=scale)
    quiet_trainer(".", max_steps=warm.steps).fit(module, datamodule=task.data)
    begun = time.process_time()
    quiet_trainer(".", calibrating, limit_val_batches=1).calibrate(module, datamodule=task.data, verbose=False)
    seconds = {"calibration": time.process_time() - begun}
    tuned = _tested(module, task)
    assert module.test_results is not None
    results = module.test_results.metrics
    texts = {} if task.new_tokens is None else decode_all(module, task.data, sizes.decoded)
    spent = 0.0
    for name in ("train on 1", "train on 2") if warm.lr else ():
        begun = time.process_time()
        quiet_trainer(".", max_epochs=1).fit(module, datamodule=task.train_on)
        spent += time.process_time() - begun
        seconds[name] = spent
        for metric, found in _paired(_tested(module, task), tuned).items():
            results["metrics"][metric][name] = found
        if texts:
            for way, written in decode_tuned(module, task.data, sizes.decoded).items():
                texts[way][name] = written
    return {
        "metric": task.metric,
        "calibration": module.calibration,
        "results": results,
        "seconds": seconds,
        "decoded": measured(texts),
        "texts": texts,
    }


class _Scores(L.Callback):
    """Keeps the scores of a test before they are summarised."""

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        held_out = pl_module.held_out
        self.completions: CompletionScores = held_out.completions.compute()
        self.choices: ChoiceScores = held_out.choices.compute()


def _tested(module: SteeredLanguageModel, task: Task) -> _Scores:
    scores = _Scores()
    quiet_trainer(".", scores).test(module, datamodule=task.data, verbose=False)
    return scores


def _paired(trained: _Scores, tuned: _Scores) -> dict[str, Any]:
    """Return the metrics of the tuned model that was trained on, with their gain over the one that was not."""
    after, before = trained.completions, tuned.completions
    nll = after.metrics("tuned")["NLL"]
    found = {"NLL": entry("", nll, after.log_probs["tuned"], before.log_probs["tuned"], before.example)}
    if trained.choices.number.numel():
        for metric, values in trained.choices.metrics("tuned").items():
            others = tuned.choices.metrics("tuned")[metric]
            found[metric] = entry("", values.mean().item(), values, others, tuned.choices.number)
    return found


if __name__ == "__main__":
    auto_cli(run)
