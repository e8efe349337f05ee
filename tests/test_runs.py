"""Runs of every kind end calibrated with their last weights; they repeat, resume, and ask the base once."""

import json

import lightning as L
import pytest
import torch

from svd_lightning import SteeredLanguageModel
from svd_lightning.objective import MaskedObjective, judged_penalty
from svd_lightning.scoring import collector
from svd_lightning.strength import LineSearch
from tests.chain import Losses, diary_data, diary_model, fit, small_lora


def recalibrated(module, data):
    """Strengths of a plain calibration pass, without snapshot, Trainer or callback."""
    data.tokenizer = module.tokenizer
    collecting = collector(module.eval().peft_model, module.steering)
    with torch.no_grad():
        for batch in data.calibration_dataloader():
            collecting.add(batch)
    objective = MaskedObjective(
        collecting.result(), module.steering.rules, penalty=judged_penalty(module.steering.penalty)
    )
    return LineSearch()(objective).strengths


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, 6),
        ({"accumulate_grad_batches": 4}, 2),
        ({"max_steps": 4, "max_epochs": -1}, 4),
        ({"max_epochs": 3}, 18),
        ({"max_steps": 8, "max_epochs": 5, "accumulate_grad_batches": 2}, 8),
        ({"limit_val_batches": 0}, 6),
        ({"gradient_clip_val": 0.1}, 6),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_every_kind_of_run_ends_calibrated_with_its_last_weights(options, steps, diaries, tmp_path):
    trainer = fit(tmp_path, diary_model(learning_rate=3e-3), data := diary_data(diaries), **options)
    assert trainer.global_step == steps
    record = json.loads((tmp_path / "run/version_0/calibration.json").read_text())
    assert record["global_step"] == steps
    checkpoint = tmp_path / "run/version_0/checkpoints/last.ckpt"
    module = SteeredLanguageModel.load_from_checkpoint(checkpoint)
    assert module.calibration["global_step"] == torch.load(checkpoint, weights_only=True)["global_step"] == steps
    assert list(module.steering.strengths) == record["strengths"]
    assert module.steering.strengths == pytest.approx(recalibrated(module, data), rel=1e-4)


def test_the_same_seed_gives_the_same_run(diaries, tmp_path):
    runs = []
    for seed in (7, 7, 8):
        L.seed_everything(seed, verbose=False)
        fit(tmp_path, module := diary_model(small_lora(lora_dropout=0.1)), diary_data(diaries), losses := Losses())
        runs.append((losses.values, module.steering.strengths))
    assert runs[0] == runs[1] != runs[2]
    assert len(runs[0][0]) == 6


def test_a_resumed_run_equals_an_unbroken_one(diaries, tmp_path):
    def run(folder, epochs, **options):
        L.seed_everything(3, verbose=False)
        module = diary_model(small_lora(lora_dropout=0.5), lr_schedule="constant")
        trainer = fit(folder, module, diary_data(diaries), losses := Losses(), max_epochs=epochs, **options)
        return losses.values, module, trainer

    whole, unbroken, _ = run(tmp_path / "whole", 3)
    first, _, trainer = run(tmp_path / "part", 3, max_steps=12)
    rest, resumed, _ = run(tmp_path / "part", 3, ckpt_path=trainer.checkpoint_callback.last_model_path)
    assert len(whole) == 18
    assert first + rest == whole, "to the bit, the dropout of the last epoch too"
    assert all(map(torch.equal, resumed.parameters(), unbroken.parameters()))
    assert resumed.steering.strengths == unbroken.steering.strengths
    assert resumed.calibration["global_step"] == 18


def test_the_base_runs_over_the_calibration_split_once(diaries, tmp_path):
    class BaseForwards(L.Callback):
        def __init__(self):
            self.count = self.tuned = 0

        def on_fit_start(self, trainer, pl_module):
            layer = pl_module.peft_model.get_base_model().model.layers[0].self_attn.q_proj
            layer.register_forward_pre_hook(lambda module, args: self._add(module))

        def _add(self, layer):
            self.count += layer.disable_adapters
            self.tuned += not layer.disable_adapters and not layer.training

    data = diary_data(diaries, validation_path=None, validation=None)
    fit(tmp_path, diary_model(), data, forwards := BaseForwards(), max_epochs=3)
    drift = 3 * 3  # each epoch's: all three batches, since their prompts have fewer tokens than it looks at
    assert forwards.count == 3 + drift, "24 calibration examples in batches of 8, in the first epoch alone"
    assert forwards.tuned == 9 + drift, "three epochs of them"
