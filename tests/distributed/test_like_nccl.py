"""The chain as over NCCL: the default group refuses host memory, and evaluation runs in inference mode."""

import pytest

from svd_lightning.commands.demo.task import TASK
from tests.chain import write_diaries, write_jsonl
from tests.distributed.launch import needs_deepspeed, results, write_job

VERBS = ("fit", "calibrate", "validate", "test", "predict", "questions")


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Diaries for one training step an epoch; the other splits do not divide."""
    counts = {"train": 8, "calibration": 5, "validation": 3, "test": 3, "predict": 3}
    folder = write_diaries(tmp_path_factory.mktemp("few"), **counts)
    write_jsonl(folder / "questions.jsonl", [question(number) for number in range(15)])
    return folder


def question(number):
    """A diary with two to four endings, the first of which is right."""
    right, *wrong = TASK.sample(2 + number % 3, seed=20 + number, prefix="question")
    choices = [f" {one['completion']}" for one in (right, *wrong)]
    return {"id": number, "prompt": right["prompt"], "choices": choices, "correct": [0]}


@pytest.fixture(scope="module")
def one(few, tmp_path_factory):
    """Folder and findings of one process."""
    folder = tmp_path_factory.mktemp("one")
    [found] = results(write_job(folder, few, "single", *VERBS))
    return folder, found


@pytest.mark.parametrize(
    "strategy",
    [
        "ddp_without_host_memory",
        pytest.param("fsdp", marks=pytest.mark.slow),
        "fsdp2",
        pytest.param("zero3", marks=[pytest.mark.slow, needs_deepspeed]),
    ],
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
        ours, alone = rank["questions"], one[1]["questions"]
        assert ours["metrics"][0] == pytest.approx(alone["metrics"][0], rel=1e-4, abs=1e-5)
        assert ours["calibration"]["questions"] == pytest.approx(alone["calibration"]["questions"], rel=1e-4)
        strengths = alone["calibration"]["strengths"]  # at a flat optimum
        assert ours["calibration"]["strengths"] == pytest.approx(strengths, rel=1e-2)
        for mine, theirs in zip(*(each["calibration"]["corrections"] for each in (ours, alone)), strict=True):
            assert mine["gain"]["mean"] == pytest.approx(theirs["gain"]["mean"], abs=1e-4), mine["name"]
    assert (tmp_path / "predictions.jsonl").read_text() == (one[0] / "predictions.jsonl").read_text()
