"""recipes/ray_train.py on two workers of a Ray cluster of this machine's own."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from svd_lightning.cli import main
from tests.chain import ROOT, read_jsonl, write_config
from tests.processes import environment

RECIPE = ROOT / "recipes" / "ray_train.py"
QUICK = ["--calibration.alphas", "[]", "--calibration.others", "false", "--calibration.guard", "false"]


def test_it_compiles():
    compile(RECIPE.read_text(), RECIPE, "exec")


def start(folder, *arguments):
    """Start the recipe with two workers; what it prints goes to a log in the folder."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with (folder / "log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, str(RECIPE), "2", *arguments],
            cwd=folder,
            env={**environment(), "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0"},
            stdout=log,
            stderr=log,
        )


def ended(process, folder):
    try:
        return process.wait(timeout=500), (folder / "log").read_text()[-6000:]
    finally:
        process.kill()


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_fit_goes_on_after_a_worker_was_killed_and_predicts_as_one_process(diaries, tmp_path):
    pytest.importorskip("ray.train.lightning", reason="Ray Train is not installed: pip install 'ray[train]'")
    (tmp_path / "two").mkdir()
    given = ["--trainer.max_epochs", "2", *QUICK]
    one = write_config(tmp_path / "one.yaml", diaries, tmp_path / "one")
    two = write_config(tmp_path / "two.yaml", diaries, tmp_path / "two", data={"batch_size": 4})
    halt = {"moment": "on_train_batch_start", "call": 8, "folder": str(tmp_path / "two")}
    callbacks = json.dumps([{"class_path": "tests.halt.Halt", "init_args": halt}])

    first = start(tmp_path / "two", "fit", "--config", str(two), *given, "--trainer.callbacks", callbacks)
    worker = tmp_path / "two/halted-1"
    while not (worker.exists() and worker.read_text()):
        assert first.poll() is None, (tmp_path / "two/log").read_text()[-6000:]
        time.sleep(0.1)
    os.kill(int(worker.read_text()), signal.SIGKILL)
    status, text = ended(first, tmp_path / "two")
    assert status != 0, text

    saved = tmp_path / "two/run/version_0/checkpoints/last.ckpt"
    assert load(saved)["global_step"] == 6
    then = start(tmp_path / "two", "fit", "--config", str(two), *given, "--ckpt_path", str(saved))
    status, text = ended(then, tmp_path / "two")
    assert status == 0, text
    main(["fit", "--config", str(one), *given, "--calibration.show_table", "false"])
    last = [
        tmp_path / "two/run/version_1/checkpoints/last.ckpt",
        tmp_path / "one/run/version_0/checkpoints/last.ckpt",
    ]
    found, expected = map(load, last)
    assert found["global_step"] == expected["global_step"] == 12
    assert found["calibration"]["strengths"] == pytest.approx(expected["calibration"]["strengths"], rel=1e-3)
    for name, weight in expected["state_dict"].items():
        torch.testing.assert_close(found["state_dict"][name], weight, rtol=1e-3, atol=1e-5)

    output = ["--predict.output", "predictions.jsonl"]
    status, text = ended(
        start(tmp_path / "two", "predict", "--config", str(two), "--ckpt_path", str(last[0]), *output),
        tmp_path / "two",
    )
    assert status == 0, text
    alone = ["--predict.output", str(tmp_path / "alone.jsonl")]
    main(["predict", "--config", str(one), "--ckpt_path", str(last[1]), *alone])
    assert read_jsonl(tmp_path / "two/predictions.jsonl") == read_jsonl(tmp_path / "alone.jsonl")


def load(path):
    return torch.load(path, weights_only=True)
