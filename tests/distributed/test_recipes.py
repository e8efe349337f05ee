"""What the README says: one more --config, the same run on several processes."""

import json
from pathlib import Path

import pytest
import torch

from tests.chain import ROOT, write_config
from tests.distributed.launch import needs_deepspeed, read_results, torchrun_node, write_job
from tests.processes import run_module

QUICK = ["--calibration.alphas", "[]", "--calibration.guard", "false", "--calibration.show_table", "false"]


def on_cpu(name: str, folder: Path) -> str:
    """The strategy's file, or for DeepSpeed a copy that names the class of the tests."""
    path = ROOT / "configs" / "strategy" / f"{name}.yaml"
    if not name.startswith("deepspeed"):
        return str(path)
    copy = folder / path.name
    copy.write_text(
        path.read_text().replace("svd_lightning.strategies.ZeROStrategy", "tests.distributed.ranks.ZeROOnCPU")
    )
    return str(copy)


DEEPSPEED = [pytest.param(f"deepspeed_{name}", marks=needs_deepspeed) for name in ("zero2", "zero3")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp", "fsdp2", *DEEPSPEED])
def test_one_more_config_on_the_command_line(name, uneven, one, tmp_path):
    config = write_config(tmp_path / "run.yaml", uneven, tmp_path, data={"batch_size": 4, "eval_batch_size": 2})
    checkpoint = str(one[0] / "fit/run/version_0/checkpoints/last.ckpt")
    two = ["--config", str(config), "--config", on_cpu(name, tmp_path), "--trainer.devices", "2"]
    run_module("svd_lightning", "fit", *two, *QUICK, "--trainer.logger.init_args.name", "fit")
    record = json.loads((tmp_path / "fit/version_0/calibration.json").read_text())
    content = torch.load(tmp_path / "fit/version_0/checkpoints/last.ckpt", weights_only=True)
    assert content["calibration"]["strengths"] == record["strengths"]
    assert content["global_step"] == record["global_step"] == 4
    output = ["--predict.output", str(tmp_path / "two.jsonl"), "--predict.compare", "true"]
    run_module("svd_lightning", "predict", *two, *output, "--ckpt_path", checkpoint)
    assert (tmp_path / "two.jsonl").read_text() == (one[0] / "predictions.jsonl").read_text()


@pytest.mark.slow
def test_two_nodes_of_one_process_each_by_torchrun(uneven, one, tmp_path):
    """Two torchrun agents, as on two machines, that find each other on loopback."""
    checkpoint = str(one[0] / "fit/run/version_0/checkpoints/last.ckpt")
    job = write_job(tmp_path, uneven, "fsdp2", "calibrate", "predict", nodes=2, ckpt_path=checkpoint)
    nodes = [torchrun_node(job, rank) for rank in (0, 1)]
    try:
        outputs = [node.communicate(timeout=200)[1] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], outputs[0][-3000:] + outputs[1][-3000:]
    for rank in read_results(job):
        assert rank["calibrate"]["calibration"]["strengths"] == pytest.approx(
            one[1]["fit"]["calibration"]["strengths"], rel=1e-5
        )
    assert (tmp_path / "predictions.jsonl").read_text() == (one[0] / "predictions.jsonl").read_text()
