"""Every learning-rate schedule that `--help` names runs, with its own arguments."""

import csv
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from transformers import SchedulerType

from svd_lightning.errors import InputError
from svd_lightning.schedule import Schedule
from tests.chain import diary_data, diary_model, fit, quiet_trainer

ARGUMENTS = {
    "cosine_with_min_lr": {"min_lr_rate": 0.5},
    "cosine_warmup_with_min_lr": {"min_lr": 0.05},
    "warmup_stable_decay": {"num_decay_steps": 3},
    "reduce_lr_on_plateau": {"patience": 0, "threshold": 10.0, "threshold_mode": "abs", "factor": 0.5},
    "greedy": {"patience": 0, "factor": 0.5},
}
RATES = {
    "constant": [0.1] * 6,
    "linear": [0.1 * left / 6 for left in range(6, 0, -1)],
    "warmup_stable_decay": [0.1, 0.1, 0.1, 0.1, 0.075, 0.025],
    "reduce_lr_on_plateau": [0.1, 0.1, 0.05, 0.025, 0.0125, 0.00625],  # from the second loss, none is better by 10
}


@pytest.mark.parametrize("name", [each.value for each in SchedulerType])
def test_every_schedule_runs(name, diaries, tmp_path):
    module = diary_model(learning_rate=0.1, lr_schedule=name, lr_schedule_args=ARGUMENTS.get(name))
    trainer = quiet_trainer(tmp_path, LearningRateMonitor(), limit_val_batches=0, enable_checkpointing=False)
    trainer.fit(module, datamodule=diary_data(diaries))
    with Path(trainer.log_dir, "metrics.csv").open() as file:
        rates = [float(row["lr-AdamW"]) for row in csv.DictReader(file) if row["lr-AdamW"]]
    assert len(rates) == 6
    if name in RATES:
        assert rates == pytest.approx(RATES[name], rel=1e-4)


@pytest.mark.parametrize(
    ("name", "arguments", "steps", "message"),
    [
        (
            "warmup_stable_decay",
            {},
            10,
            "cannot make WARMUP_STABLE_DECAY .* 'num_decay_steps'; write what it needs",
        ),
        ("cosine_with_min_lr", {}, 10, "One of min_lr or min_lr_rate should be set"),
        ("linear", {"min_lr": 1}, 10, "unexpected keyword argument 'min_lr'"),
        ("polynomial", {"lr_end": 2.0}, 10, r"lr_end \(2.0\) must be smaller than initial lr"),
        ("constant", {"min_lr": 1}, 10, "CONSTANT takes none, got {'min_lr': 1}"),
        ("linear", {}, float("inf"), "LINEAR requires .*; a run that only trainer.max_time ends needs"),
        ("warmup_stable_decay", {"num_decay_steps": 1}, float("inf"), "num_stable_steps must be specified"),
    ],
)
def test_bad_arguments(name, arguments, steps, message):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    with pytest.raises(InputError, match=message):
        Schedule(SchedulerType(name), arguments, 0.0).make(optimizer, steps)


def test_a_run_that_only_time_ends(diaries, tmp_path):
    def run(name, **options):
        module = diary_model(lr_schedule=name, **options)
        return fit(tmp_path, module, diary_data(diaries), max_epochs=None, max_time={"seconds": 1})

    assert run("constant").global_step > 0
    with pytest.raises(InputError, match=r"a run that only trainer.max_time ends needs trainer.max_steps too"):
        run("cosine")
    with pytest.raises(InputError, match="warmup_ratio: a share of steps needs their number"):
        run("constant_with_warmup", warmup_ratio=0.1)
