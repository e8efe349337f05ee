"""The chain on GPUs, over NCCL, with the strategies as users have them; the same tests run on CPU processes.

`pytest -m gpu` runs the first, on all GPUs that are visible (as many as a power of two, at most 8).
"""

import math
from importlib.util import find_spec

import pytest
import torch

from tests.chain import read_jsonl
from tests.distributed.launch import SPREAD, needs_deepspeed, results, write_job

GPUS = torch.cuda.device_count()
PROCESSES = {"cpu": 2, "gpu": 2 ** min(3, int(math.log2(max(1, GPUS))))}
needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(GPUS == 0, reason="no CUDA device is visible")]
ON = [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("gpu", marks=needs_gpu)]
OFFLOADED = ("fsdp_offload", pytest.param("zero3_offload", marks=needs_deepspeed))


@pytest.fixture(autouse=True)
def possible(accelerator, strategy):
    """Skip what this machine cannot do, before anything runs."""
    if (accelerator, strategy) == ("cpu", "fsdp_offload"):
        pytest.skip("FSDP1 pins what it offloads, which needs a GPU")
    if PROCESSES[accelerator] == 1 and strategy in ("fsdp", "fsdp_offload"):
        pytest.skip("FSDP1 needs two GPUs or more")


def run_chain(folder, diaries, accelerator, strategy, **options):
    """What each process found in fit (with calibration and checkpoint), test and predict."""
    processes = 1 if strategy == "single" else PROCESSES[accelerator]
    placed = {"accelerator": accelerator, "processes": processes, **options}
    found = results(write_job(folder, diaries, strategy, "fit", "test", "predict", **placed))
    assert len(found) == processes
    return found


def check(found, folder):
    """Finite, the same on every process, and complete."""
    records = [rank["fit"]["calibration"] for rank in found]
    assert all(math.isfinite(loss) for rank in found for loss in rank["fit"]["losses"])
    assert all(record == records[0] for record in records)
    assert all(map(math.isfinite, (*records[0]["strengths"], records[0]["nll_steered"])))
    for rank in found:
        assert rank["fit"]["placed"]
        [metrics] = rank["test"]["metrics"]
        assert all(map(math.isfinite, metrics.values()))
    rows = read_jsonl(folder / "predictions.jsonl")
    assert [row["id"] for row in rows] == [f"predict-{i}" for i in range(7)]
    assert all(row["completion"] for row in rows)
    content = torch.load(folder / "fit/run/version_0/checkpoints/last.ckpt", weights_only=True)
    assert all(weight.isfinite().all() for weight in content["state_dict"].values())


@pytest.mark.parametrize("strategy", [*SPREAD, *OFFLOADED])
@pytest.mark.parametrize("accelerator", ON)
def test_in_float32_everything_is_that_of_one_process(accelerator, strategy, uneven, tmp_path):
    one, all_ = tmp_path / "one", tmp_path / "all"
    [alone] = run_chain(one, uneven, accelerator, "single")
    found = run_chain(all_, uneven, accelerator, strategy)
    check(found, all_)
    losses = torch.tensor([rank["fit"]["losses"] for rank in found]).mean(dim=0)
    torch.testing.assert_close(losses, torch.tensor(alone["fit"]["losses"]), rtol=1e-5, atol=1e-5)
    strengths = found[0]["fit"]["calibration"]["strengths"]
    assert strengths == pytest.approx(alone["fit"]["calibration"]["strengths"], rel=1e-5)
    assert (all_ / "predictions.jsonl").read_text() == (one / "predictions.jsonl").read_text()


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
@pytest.mark.parametrize("strategy", ["single", *SPREAD, *OFFLOADED])
@pytest.mark.parametrize("accelerator", ON)
def test_in_bfloat16(accelerator, strategy, precision, uneven, tmp_path):
    check(run_chain(tmp_path, uneven, accelerator, strategy, trainer={"precision": precision}), tmp_path)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="the extra `quant` is missing")
@pytest.mark.parametrize("strategy", ["single", "ddp"])
@pytest.mark.parametrize("accelerator", ON[1:])
def test_on_a_base_of_4_bits(accelerator, strategy, uneven, tmp_path):
    options = {"four_bits": True, "trainer": {"precision": "bf16-mixed"}}
    check(run_chain(tmp_path, uneven, accelerator, strategy, **options), tmp_path)
