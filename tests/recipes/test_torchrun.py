"""recipes/torchrun.sh: two nodes, both of them this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chain import ROOT, write_config
from tests.processes import environment

RECIPE = ROOT / "recipes" / "torchrun.sh"
QUICK = ["--calibration.alphas", "[]", "--calibration.show_table", "false"]


def test_bash_can_read_it():
    subprocess.run(["bash", "-n", str(RECIPE)], check=True)


@pytest.mark.slow
def test_two_nodes_of_one_process_each(diaries, tmp_path):
    config = write_config(tmp_path / "run.yaml", diaries, tmp_path, data={"batch_size": 4})
    strategy = str(ROOT / "configs/strategy/fsdp2.yaml")
    here = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    nodes = [
        subprocess.Popen(
            ["bash", str(RECIPE), "127.0.0.1", "2", str(rank), str(config), strategy, *QUICK],
            cwd=tmp_path,
            env={**environment(), **here, "GPUS": "1", "PORT": "29581"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        outputs = [node.communicate(timeout=200)[1] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], outputs[0][-3000:] + outputs[1][-3000:]
    record = json.loads((tmp_path / "run/version_0/calibration.json").read_text())
    assert (record["examples"], record["global_step"]) == (24, 6)
