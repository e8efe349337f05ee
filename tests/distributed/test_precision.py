"""bfloat16 on several processes: the adapter's format, and rounding noise measured on split weights."""

import pytest
import torch

from tests.chain import write_diaries
from tests.distributed.launch import SPREAD, results, write_job

EVERY = [
    pytest.param(*getattr(one, "values", (one,)), marks=[*getattr(one, "marks", ()), *slow])
    for one in SPREAD
    for slow in ([] if one == "fsdp2" else [pytest.mark.slow],)
]


@pytest.mark.parametrize("strategy", EVERY)
def test_bf16_true_measures_noise_and_calibrates(strategy, tmp_path):
    diaries = write_diaries(tmp_path / "data", train=16, calibration=16, validation=4, test=4, predict=4)
    job = write_job(
        tmp_path / "run", diaries, strategy, "fit", "test", "predict", trainer={"precision": "bf16-true"}
    )
    first, second = (rank["fit"]["calibration"] for rank in results(job))
    assert first == second
    assert first["arithmetic"]["weights"] == "bfloat16"
    assert first["noise"]["tokens"] >= 64
    assert 0 < first["noise"]["noise"] < 0.1
    assert first["noise"]["signal"] > 1e-3
    [checkpoint] = (tmp_path / "run").rglob("last.ckpt")
    weights = torch.load(checkpoint, weights_only=True)["state_dict"].values()
    uniform = strategy == "fsdp"  # one number format for all that it flattens; DeepSpeed saves its float32 copy
    assert {weight.dtype for weight in weights} == {torch.bfloat16 if uniform else torch.float32}
