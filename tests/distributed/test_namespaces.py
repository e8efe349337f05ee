"""The recipe of two nodes where neither can reach the other by loopback."""

import pytest

from tests.distributed.launch import read_results, torchrun_node, write_job
from tests.distributed.namespaces import reason_against, two_nodes


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_nodes_on_a_network_of_their_own(strategy, uneven, one, tmp_path):
    if reason := reason_against():
        pytest.skip(reason)
    checkpoint = str(one[0] / "fit/run/version_0/checkpoints/last.ckpt")
    job = write_job(tmp_path, uneven, strategy, "calibrate", "predict", nodes=2, ckpt_path=checkpoint)
    with two_nodes() as nodes:
        agents = [torchrun_node(job, rank, first=nodes[0].address, node=node) for rank, node in enumerate(nodes)]
        try:
            outputs = [agent.communicate(timeout=200)[1] for agent in agents]
        finally:
            for agent in agents:
                agent.kill()
    assert [agent.returncode for agent in agents] == [0, 0], outputs[0][-3000:] + outputs[1][-3000:]
    for rank in read_results(job):
        assert rank["calibrate"]["calibration"]["strengths"] == pytest.approx(
            one[1]["fit"]["calibration"]["strengths"], rel=1e-5
        )
    assert (tmp_path / "predictions.jsonl").read_text() == (one[0] / "predictions.jsonl").read_text()
