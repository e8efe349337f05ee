"""Steering without a mask through the verbs, and over two processes."""

import json

import pytest
import torch

from svd_lightning.steering import KLGradient, NaturalGradient, Steering
from tests.chain import diary_data, diary_model, plain_calibration, quiet_trainer, write_config
from tests.processes import run_module


@pytest.fixture(scope="module")
def unmasked(diaries, tmp_path_factory):
    """A run of `svd-lightning fit` with alpha null."""
    folder = tmp_path_factory.mktemp("unmasked")
    config = write_config(folder / "config.yaml", diaries, folder)
    run_module("svd_lightning", "fit", "--config", str(config), "--model.steering.alpha", "null")
    return folder


def test_fit_calibrates_and_test_and_report_use_it(unmasked):
    record = json.loads((unmasked / "run/version_0/calibration.json").read_text())
    assert record["alpha"] is None
    assert record["coverage"] == 1.0
    assert record["recommended"] is None
    assert len(record["candidates"]) > 8
    assert not (unmasked / "run/version_0/calibration_table.safetensors").exists()
    options = ["--config", str(unmasked / "config.yaml"), "--model.steering.alpha", "null"]
    checkpoint = str(unmasked / "run/version_0/checkpoints/last.ckpt")
    assert "│ chosen " in run_module("svd_lightning", "test", *options, "--ckpt_path", checkpoint)
    run_module("svd_lightning", "report", str(unmasked / "run/version_0"))


def test_two_processes_find_the_same_strengths_and_corrections(fitted, diaries, tmp_path):
    steering = Steering([KLGradient(), NaturalGradient()], alpha=None)
    trainer = quiet_trainer(tmp_path, plain_calibration(corrections=True, scale=True))
    checkpoint = fitted / "checkpoints/last.ckpt"
    trainer.calibrate(
        module := diary_model(steering=steering), datamodule=diary_data(diaries), ckpt_path=checkpoint
    )
    run_module("tests.callbacks.two_unmasked", str(tmp_path / "two"), str(diaries), str(checkpoint), processes=2)
    for rank in range(2):
        found = json.loads((tmp_path / f"two/{rank}.json").read_text())
        for name in ("strengths", "tokens", "examples", "nll_tuned", "nll_steered", "kl_to_reference"):
            assert found[name] == pytest.approx(module.calibration[name], rel=1e-5), name
        losses = [[c["nll"] for c in record["candidates"]] for record in (found, module.calibration)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        weights = torch.load(tmp_path / f"two/{rank}.pt")
        assert weights["AdapterScale"]["scale"].item() == module.corrections["AdapterScale"].scale != 1.0
        for name in ("Prior", "LabelBias", "CalibratedHead"):
            one = module.corrections[name]
            # searches in float32 end at slightly other points of a flat minimum, depending on the CPU
            torch.testing.assert_close(weights[name]["weights"], one.weights, atol=3e-3, rtol=1e-2)
            assert torch.equal(weights[name]["tokens"], one.tokens)
        for mine, theirs in zip(found["corrections"], module.calibration["corrections"], strict=True):
            assert mine["gain"] == pytest.approx(theirs["gain"], abs=1e-4), mine["name"]
