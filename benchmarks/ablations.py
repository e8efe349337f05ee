"""The paper's ablations after one warm start of a real model: what each choice gains over the tuned model.

    OMP_NUM_THREADS=1 python benchmarks/ablations.py MODEL_FOLDER SCRATCH

Answers of TruthfulQA, split and warm-started (half way) as `benchmarks/evidence.py` does. Both models run over
each split once; every strength is found, and judged, on the tokens that this leaves (`svd-lightning sweep` would
run them for each row). Prints a Markdown table of gains on the test split, with paired intervals over examples.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from evidence_decoding import WAYS, decode, measured
from evidence_tasks import Sizes, load_task
from jsonargparse import auto_cli
from quiet import quiet_trainer
from torch import Tensor
from torch.utils.data import DataLoader
from warm_starts import WARM_STARTS, untrained

from svd_lightning.metrics import paired_gain
from svd_lightning.objective import ReferenceSnapshot, objective, prefetch
from svd_lightning.scoring import collector
from svd_lightning.steering import BUILT_IN_RULES, UNSTEERED, Steering
from svd_lightning.strength import CLOSED_FORMS, LineSearch, Mean, StrengthEstimator, estimate_all, estimator_name

PROJECTED, UNPROJECTED, TAD, SHARPENED, LIFT = (rule() for rule in BUILT_IN_RULES)
MEAN, SEARCH = BOTH = Mean(), LineSearch()
ALL = 0.01
"""The mask of the tables, in which every larger α lies."""
Split = dict[float | None, Any]
"""A split's tokens under both models: with the mask `ALL` and with none."""


class Row(NamedTuple):
    """One choice; what it does not name is the paper's, but for λ = 0, which leaves every label possible."""

    name: str
    estimator: StrengthEstimator
    rules: tuple[Any, ...] = (PROJECTED,)
    alpha: float | None = 0.1
    penalty: float = 0.0

    def tokens(self, split: Split) -> Any:
        return split[None] if self.alpha is None else split[ALL].narrow(self.alpha)


JOINT = Row("three rules jointly", SEARCH, (PROJECTED, UNPROJECTED, SHARPENED))
UNMASKED = Row("no mask, without projection", SEARCH, (UNPROJECTED,), alpha=None)
ROWS = (
    *(Row("the paper's direction", one) for one in (*CLOSED_FORMS, SEARCH)),
    *(Row("without projection", one, (UNPROJECTED,)) for one in BOTH),
    *(Row("TaD's direction", one, (TAD,)) for one in BOTH),
    Row("temperature alone", SEARCH, (SHARPENED,)),
    JOINT,
    *(Row(f"α {alpha:g}", one, alpha=alpha) for alpha in (ALL, 0.2, 0.3, 0.4, 0.5) for one in BOTH),
    *(Row("no mask", one, alpha=None) for one in BOTH),
    UNMASKED,
    *(Row(f"λ {penalty:g}", one, penalty=penalty) for penalty in (-1.0, -5.0) for one in BOTH),
    Row("λ fitted, minus the second μ", SEARCH, (PROJECTED, LIFT)),
    *(Row("λ −∞, on labels inside the mask alone", one, penalty=-torch.inf) for one in BOTH),
)
LENGTHS = Row("the paper's direction", MEAN), Row("the paper's direction", SEARCH), JOINT
"""What is told after some of the warm start's steps."""


class Watched(L.Callback):
    """Both splits, of which it prints `LENGTHS` after some steps."""

    def __init__(self, steps: Sequence[int], *loaders: Callable[[], DataLoader]) -> None:
        self.steps, self.splits = steps, [(loader, ReferenceSnapshot()) for loader in loaders]

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        if (step := trainer.global_step) in self.steps:
            rows = [row._replace(name=f"{step} steps: {row.name}") for row in LENGTHS]
            report(rows, [self.collect(pl_module, split, ALL) for split in self.splits])
            pl_module.train()

    @torch.no_grad()
    def collect(self, module: Any, split: tuple[Any, ReferenceSnapshot], *masks: float | None) -> Split:
        loader, base = split  # the base runs the first time only
        by_mask = {mask: collector(module.eval().peft_model, Steering(alpha=mask), base) for mask in masks}
        for batch in loader():
            for each in by_mask.values():
                each.add(batch)
        return {mask: each.result() for mask, each in by_mask.items()}


def report(rows: Sequence[Row], splits: Sequence[Split]) -> dict[Row, Tensor]:
    """Print what each row gains on the second split by strengths of the first, which are returned."""
    given, judged = (
        [objective(row.tokens(split), row.rules, penalty=row.penalty) for row in rows] for split in splits
    )
    fits = estimate_all([(row.estimator, one) for row, one in zip(rows, given, strict=True)])
    points = [torch.tensor(fit.strengths, dtype=torch.float64) for fit in fits]
    prefetch(judged, points)
    for row, one, point in zip(rows, judged, points, strict=True):
        tokens = row.tokens(splits[1])
        keep = tokens.covered if row.penalty == -torch.inf else slice(None)
        found = gain(one.label_log_probs(point), tokens.label_log_p[keep], tokens.example[keep])
        by, strengths = estimator_name(row.estimator), ", ".join(f"{strength:.3g}" for strength in point.tolist())
        print(f"| {row.name} | {by} | {strengths} | {tokens.coverage:.1%} | {found} |", flush=True)
    return dict(zip(rows, points, strict=True))


def report_decoding(module: Any, data: Any, count: int, strengths: dict[Row, Sequence[float]]) -> None:
    """Print how the texts of some rows compare with the tuned model's, decoded freely."""
    steerings = {row.name: Steering(row.rules, mu, row.alpha, row.penalty) for row, mu in strengths.items()}
    texts = {way: decode(module, data, count, {"tuned": UNSTEERED["tuned"], **steerings}, way) for way in WAYS}
    print("\n| written by | measure | mean | gain over tuned |", "|---" * 4 + "|", sep="\n")
    for way, measures in measured(texts).items():
        for measure in ("rouge_l", "repeated_trigrams"):
            for name, one in measures[measure].items():
                interval = f"{one['gain']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]" if "low" in one else ""
                print(f"| {name} | {measure}, {way} | {one['value']:.3f} | {interval} |", flush=True)


def gain(better: Tensor, worse: Tensor, example: Tensor) -> str:
    found = paired_gain(better.double(), worse.double(), example)
    return f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"


def run(
    model: str, scratch: Path, *, lengths: tuple[int, ...] = (15, 30), rows: int = 80, decoded: int = 32
) -> None:
    """Warm-start, and print the tables; `lengths` in steps, `rows` in each split, some of which are `decoded`."""
    L.seed_everything(0, verbose=False)
    warm, data = WARM_STARTS["half way"], load_task("truthfulqa", scratch, Sizes(480, rows, rows, 0)).data
    module = untrained(model, "lora", warm, new_tokens=24)
    print("| choice | strength by | μ | labels in the mask | gain over tuned, nats |", "|---" * 5 + "|", sep="\n")
    watched = Watched(lengths, data.calibration_dataloader, data.test_dataloader)
    quiet_trainer(scratch, watched, max_steps=warm.steps).fit(module, datamodule=data)
    strengths = report(ROWS, splits := [watched.collect(module, split, ALL, None) for split in watched.splits])
    tokens = splits[1][ALL]
    print(f"| base | | | | {gain(tokens.label_log_q, tokens.label_log_p, tokens.example)} |")
    report_decoding(module, data, decoded, {row: strengths[row].tolist() for row in (JOINT, UNMASKED)})


if __name__ == "__main__":
    auto_cli(run)
