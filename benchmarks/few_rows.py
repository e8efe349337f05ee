"""What the guard chooses from few labelled rows, on many random draws, and what that does to all other rows.

    OMP_NUM_THREADS=1 python benchmarks/few_rows.py MODEL_FOLDER

Warm-starts LoRA on TruthfulQA's best answers, runs the models once over 400 others, and calibrates on random draws
of these (any recipe and every correction allowed; decoding is not checked). Prints a Markdown row for each size of
draw: what was used how often, and the gain over the tuned model in nats per token on the rows that were not drawn.
"""

import csv
import json
import tempfile
from collections import Counter
from pathlib import Path

import lightning as L
import torch
from jsonargparse import auto_cli
from peft import LoraConfig
from quiet import quiet_trainer
from torch import Tensor

from svd_lightning import SteeredLanguageModel
from svd_lightning.calibration import FittedCorrection, LabelSplit, calibrate, fit_corrections, in_use
from svd_lightning.data import JSONLData
from svd_lightning.files import write_text
from svd_lightning.metrics import Gain, paired_gain
from svd_lightning.models import Backbone
from svd_lightning.objective import LabelTokens, TokenTable, label_tokens, objective
from svd_lightning.records import CalibrationRecord
from svd_lightning.scoring import collector
from svd_lightning.steering import with_built_in
from svd_lightning.strength import LineSearch

ANSWERS = Path("../shared/data/TruthfulQA.csv")
ROWS = 400


def draw(
    model: str,
    *,
    steps: int = 60,
    lr: float = 2e-4,
    sizes: tuple[int, ...] = (25, 50, 100),
    draws: int = 20,
) -> None:
    """Calibrate on `draws` random draws of each size."""
    L.seed_everything(0, verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        module, table, labels = _collected(model, Path(folder), steps=steps, lr=lr)
    print("| rows | used, of all draws | gain: mean | worst | best | surely worse than tuned |")
    print("|---|---|---|---|---|---|")
    for size in sizes:
        used, gains = Counter[str](), list[Gain]()
        for number in range(draws):
            chosen = torch.randperm(ROWS, generator=torch.Generator().manual_seed(number))[:size]
            numbers = table.example.unique()[chosen]
            mine = torch.isin(table.example, numbers)
            fitted = fit_corrections(LabelSplit(labels.part(mine)), folds=4)
            record = calibrate(
                table.select(mine), module.configured, LineSearch(), corrections=fitted, any_recipe=True
            )
            used[in_use(record) or "tuned"] += 1
            gains.append(_gain(record, fitted, table.select(~mine), labels.part(~mine)))
        means = [gain.mean for gain in gains]
        worse = sum(gain.high < 0.0 for gain in gains)
        names = ", ".join(f"{name} {count}" for name, count in used.most_common())
        print(
            f"| {size} | {names} | {sum(means) / draws:+.3f} | {min(means):+.3f} | {max(means):+.3f} | {worse} |",
            flush=True,
        )


def _collected(
    model: str, folder: Path, *, steps: int, lr: float
) -> tuple[SteeredLanguageModel, TokenTable, LabelTokens]:
    """Warm-start, and return the calibration tokens as steerings and as corrections see them."""
    with ANSWERS.open(encoding="utf-8", newline="") as file:
        rows = [
            {"prompt": f"Question: {row['Question']}\nAnswer:", "completion": f" {row['Best Answer']}"}
            for row in csv.DictReader(file)
        ]
    write_text(folder / "answers.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    data = JSONLData(
        folder / "answers.jsonl", calibration=ROWS, validation=8, test=8, batch_size=4, eval_batch_size=16
    )
    module = SteeredLanguageModel(
        Backbone(model, dtype="float32"),
        LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=lr),
    )
    quiet_trainer(folder, max_steps=steps).fit(module, datamodule=data)
    seen = label_tokens([each.completion_ids for each in data.rows("calibration")])
    collecting = collector(module.eval().peft_model, module.configured, corrected=seen)
    with torch.no_grad():
        for batch in data.calibration_dataloader():
            collecting.add(batch)
    split, table = collecting.label_split(), collecting.result({})
    assert split is not None
    assert isinstance(table, TokenTable)
    return module, table, split.answers


def _gain(
    record: CalibrationRecord, fitted: list[FittedCorrection], table: TokenTable, labels: LabelTokens
) -> Gain:
    """Return the gain over the tuned model of what a record uses, on other rows, without a penalty."""
    tuned = table.label_log_p.double()
    scores = tuned if in_use(record) is None else _scores(record, fitted, table, labels)
    return paired_gain(scores, tuned, table.example)


def _scores(
    record: CalibrationRecord, fitted: list[FittedCorrection], table: TokenTable, labels: LabelTokens
) -> Tensor:
    used = record["used"]
    if (name := used.get("correction")) is not None:
        [correction] = [one.correction for one in fitted if one.name == name]
        shift = torch.zeros_like(labels.log_p)
        shift[:, torch.searchsorted(labels.tokens, correction.tokens)] = correction.shift(labels.states)
        return labels.label_log_probs(shift)
    by_name = {type(rule).__name__: rule for rule in with_built_in(())}
    rules = [by_name[rule] for rule in used["rules"]]
    return objective(table, rules, penalty=0.0).label_log_probs(torch.tensor(used["strengths"]).double())


if __name__ == "__main__":
    auto_cli(draw)
