"""Two processes say what one says."""

import json

import pytest
import torch

from svd_lightning import SteeredLanguageModel
from svd_lightning.callbacks import PredictionWriter
from tests.chain import (
    diary_data,
    diary_model,
    plain_calibration,
    quiet_trainer,
    read_jsonl,
    write_config,
    write_diaries,
    write_jsonl,
)
from tests.processes import run_module


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory):
    """Splits that two do not divide, of rows that belong to two tasks in turn."""
    folder = write_diaries(
        tmp_path_factory.mktemp("odd"), train=41, calibration=23, test=11, validation=7, predict=7
    )
    for path in folder.glob("*.jsonl"):
        write_jsonl(path, [{**row, "task": "even" if i % 2 else "odd"} for i, row in enumerate(read_jsonl(path))])
    return folder


@pytest.fixture(scope="module")
def two(fitted, data_folder, tmp_path_factory):
    """The folder in which two processes have left their runs."""
    folder = tmp_path_factory.mktemp("two")
    write_config(folder / "config.yaml", data_folder, folder, data={"eval_batch_size": 2})
    shown = run_module("tests.two_ranks", str(folder), str(fitted / "checkpoints/last.ckpt"))
    assert shown.count("run folder: ") == 4, "the first process alone tells"
    return folder


def test_calibrate_finds_the_same_strength(two, fitted, data_folder, tmp_path):
    found = json.loads((two / "calibrate/version_0/calibration.json").read_text())
    trainer = quiet_trainer(tmp_path, plain_calibration())
    module, data = diary_model(), diary_data(data_folder, eval_batch_size=2)
    trainer.calibrate(module, datamodule=data, ckpt_path=fitted / "checkpoints/last.ckpt")
    assert found["strengths"] == pytest.approx(module.calibration["strengths"], rel=1e-5)
    for name in ("tokens", "examples", "coverage", "nll_tuned", "nll_steered", "kl_to_reference", "mask_size"):
        assert found[name] == pytest.approx(module.calibration[name], rel=1e-5), name
    for task, same in zip(found["tasks"], module.calibration["tasks"], strict=True):
        assert (task["task"], task["examples"]) == (same["task"], same["examples"])
        for name in ("strengths", "tokens", "nll_steered", "gain_over_tuned"):
            assert task[name] == pytest.approx(same[name], rel=1e-4, abs=1e-6), name


def test_test_counts_every_token_once(two, data_folder, fitted, tmp_path):
    found = json.loads((two / "test/version_0/test.json").read_text())
    trainer = quiet_trainer(tmp_path, plain_calibration())
    trainer.test(
        module := diary_model(),
        datamodule=diary_data(data_folder),
        ckpt_path=fitted / "checkpoints/last.ckpt",
        verbose=False,
    )
    assert found["examples"] == 11
    for name in ("tokens", "nll_tuned", "nll_steered"):
        assert found[name] == pytest.approx(module.test_results.table[name], rel=1e-5), name


def test_predictions_are_complete_in_order_and_without_duplicates(two, data_folder, fitted, tmp_path):
    rows = read_jsonl(two / "two.jsonl")
    assert [row["id"] for row in rows] == [f"predict-{index}" for index in range(7)]
    assert not list(two.glob("two.jsonl.part*"))
    target = tmp_path / "one.jsonl"
    quiet_trainer(tmp_path, PredictionWriter(output=str(target), compare=True)).predict(
        diary_model(),
        datamodule=diary_data(data_folder),
        ckpt_path=fitted / "checkpoints/last.ckpt",
        return_predictions=False,
    )
    assert read_jsonl(target) == rows


def test_fit_leaves_one_calibrated_run(two):
    run = two / "fit/version_0"
    assert sorted(path.name for path in (two / "fit").iterdir()) == ["version_0"]
    content = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    record = json.loads((run / "calibration.json").read_text())
    assert content["global_step"] == record["global_step"] == 3, "41 examples in batches of 8 on two processes"
    assert content["calibration"]["strengths"] == record["strengths"]
    assert record["examples"] == 23
    assert all("lora_" in name for name in content["state_dict"])
    module = SteeredLanguageModel.load_from_checkpoint(run / "checkpoints/last.ckpt")
    assert list(module.steering.strengths) == record["strengths"]
