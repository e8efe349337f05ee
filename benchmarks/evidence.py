"""Everything one can do with a warm start and labelled rows, side by side on a real model.

    OMP_NUM_THREADS=1 python benchmarks/evidence.py MODEL_FOLDER RESULTS_FOLDER

Cells are tasks × adapters × warm starts. Each compares on the test split, paired with the tuned model: base, the
paper's mean, line search, all rules jointly, temperature, prior, label bias, calibrated head, adapter scale, what
`auto` chose of them, and training on with the calibration rows for one epoch and for two. Answers in free text are
decoded too. The warm start "none" leaves the adapter at zero: its corrections are those of the base. In bfloat16
the base is loaded so, and the adapter is in float32 beside it, as PEFT does. A finished cell is a JSON file in the
results folder, where a second run finds it; its Markdown table is printed.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import lightning as L
from evidence_decoding import decode_all, decode_tuned, measured
from evidence_tables import table
from evidence_tasks import Sizes, Task, load_task
from jsonargparse import auto_cli
from quiet import quiet_trainer
from warm_starts import WARM_STARTS, Dtype, WarmStart, untrained

from svd_lightning import SteeredLanguageModel, SteeringCalibration
from svd_lightning.files import write_json
from svd_lightning.metrics import ChoiceScores, CompletionScores
from svd_lightning.records import CHOICE_NLL
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
    dtype: Dtype = "float32",
) -> None:
    """Measure every cell that has no result yet, and print all tables."""
    sizes = Sizes(train, calibration, test, decode)
    for task, adapter, start, seed in product(tasks, adapters, warm, seeds):
        about = {"model": Path(model).name, "task": task, "adapter": adapter, "warm": start, "seed": seed}
        ending = "" if dtype == "float32" else f"-{dtype}"
        path = results / f"{task}-{adapter}-{start.replace(' ', '-')}-{seed}{ending}.json"
        if not path.exists():
            L.seed_everything(seed, verbose=False)
            cell = _cell(model, load_task(task, results, sizes), adapter, WARM_STARTS[start], sizes, dtype)
            write_json(path, about | {"dtype": dtype} | cell)
        print(table(path), flush=True)


def _cell(model: str, task: Task, adapter: str, warm: WarmStart, sizes: Sizes, dtype: Dtype) -> dict[str, Any]:
    module = untrained(model, adapter, warm, new_tokens=task.new_tokens or 8, dtype=dtype)
    calibrating = SteeringCalibration(
        any_recipe=True, show_table=False, scale=adapter in ("lora", "ia3"), decoded=min(32, sizes.decoded)
    )
    seconds: dict[str, float] = {}
    with _timed(seconds, "warm start"):
        quiet_trainer(".", max_steps=warm.steps).fit(module, datamodule=task.data)
    trainer = quiet_trainer(".", calibrating, limit_val_batches=1)
    with _timed(seconds, "calibration"):
        trainer.calibrate(module, datamodule=task.data, verbose=False)
    with _timed(seconds, "test"):
        tuned = _tested(module, task)
    assert module.test_results is not None
    results, record = module.test_results.metrics, module.calibration
    with _timed(seconds, "decoding"):
        texts = {} if task.new_tokens is None else decode_all(module, task.data, sizes.decoded)
    module.calibration, module.corrections, module.steering = None, {}, module.configured  # not of what follows
    spent = 0.0
    for name in ("train on 1", "train on 2") if warm.lr else ():
        with _timed(seconds, name):
            quiet_trainer(".", max_epochs=1).fit(module, datamodule=task.train_on)
        spent = seconds[name] = spent + seconds[name]
        for metric, found in _paired(_tested(module, task), tuned).items():
            results["metrics"][metric][name] = found
        if texts:
            for way, written in decode_tuned(module, task.data, sizes.decoded).items():
                texts[way][name] = written
    return {
        "metric": task.metric,
        "calibration": record,
        "results": results,
        "seconds": seconds,
        "decoded": measured(texts),
        "texts": texts,
    }


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Note the CPU seconds of a context under a name."""
    begun = time.process_time()
    yield
    seconds[name] = time.process_time() - begun


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
        values, others = (each.choices.log_probs("tuned") for each in (trained, tuned))
        found[CHOICE_NLL] = entry("", -values.mean().item(), values, others, tuned.choices.number)
    return found


if __name__ == "__main__":
    auto_cli(run)
