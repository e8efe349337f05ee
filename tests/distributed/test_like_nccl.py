"""The chain as over NCCL: the default group refuses host memory, and evaluation runs in inference mode."""

import pytest

from tests.chain import write_diaries
from tests.distributed.launch import needs_deepspeed, results, write_job

VERBS = ("fit", "calibrate", "validate", "test", "predict")


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Diaries for one training step an epoch; the other splits do not divide."""
    counts = {"train": 8, "calibration": 5, "validation": 3, "test": 3, "predict": 3}
    return write_diaries(tmp_path_factory.mktemp("few"), **counts)


@pytest.fixture(scope="module")
def one(few, tmp_path_factory):
    """Folder and findings of one process."""
    folder = tmp_path_factory.mktemp("one")
    [found] = results(write_job(folder, few, "single", *VERBS))
    return folder, found


@pytest.mark.parametrize(
    "strategy",
    ["ddp_without_host_memory", "fsdp2", pytest.param("zero3", marks=[pytest.mark.slow, needs_deepspeed])],
)
def test_every_verb_finds_what_one_process_finds(strategy, few, one, tmp_path):
    found = results(write_job(tmp_path, few, strategy, *VERBS, inference_mode=True))
    for rank in found:
        for verb in ("fit", "calibrate"):
            strengths = one[1][verb]["calibration"]["strengths"]
            assert rank[verb]["calibration"]["strengths"] == pytest.approx(strengths, rel=1e-4), verb
        for verb in ("validate", "test"):
            [metrics], [alone] = rank[verb]["metrics"], one[1][verb]["metrics"]
            assert metrics == pytest.approx(alone, rel=1e-4, abs=1e-5), verb
    assert (tmp_path / "predictions.jsonl").read_text() == (one[0] / "predictions.jsonl").read_text()
