"""recipes/ray_train.py on two workers of a Ray cluster of this machine's own."""

import json
import os
import subprocess
import sys

import pytest
import torch

from tests.chain import ROOT, environment, write_config

RECIPE = ROOT / "recipes" / "ray_train.py"


def test_it_compiles():
    compile(RECIPE.read_text(), RECIPE, "exec")


@pytest.mark.slow
def test_two_workers(diaries, tmp_path):
    pytest.importorskip("ray.train.lightning", reason="Ray Train is not installed: pip install 'ray[train]'")
    config = write_config(tmp_path / "run.yaml", diaries, tmp_path, data={"batch_size": 4})
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, str(RECIPE), "2", "--config", str(config), "--calibration.alphas", "[]"],
        cwd=tmp_path,
        env={**environment(), "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-4000:]
    run = tmp_path / "run/version_0"
    record = json.loads((run / "calibration.json").read_text())
    assert (record["examples"], record["global_step"]) == (24, 6)  # 48 examples, 4 on each of two workers
    assert len(list(run.glob("snapshot/reference-*-of-2"))) == 2
    content = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert content["calibration"]["strengths"] == record["strengths"]
