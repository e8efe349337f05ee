"""A process that dies or fails: the others stop, and the next run goes on where this one was."""

import pytest
import torch

from tests.chain import read_jsonl, write_diaries
from tests.distributed.launch import SPREAD, launch, results, write_job


def mean_losses(found, verb):
    return torch.tensor([rank[verb]["losses"] for rank in found]).mean(dim=0)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SPREAD)
def test_a_fit_goes_on_after_a_process_was_killed(strategy, one, uneven, tmp_path):
    fault = {"verb": "fit", "how": "kill", "step": 5}
    assert launch(write_job(tmp_path, uneven, strategy, "fit", fault=fault)).returncode != 0
    found = results(write_job(tmp_path, uneven, strategy, "resume"))
    expected = torch.tensor(one[1]["fit"]["losses"])[4:]
    torch.testing.assert_close(mean_losses(found, "resume"), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SPREAD)
def test_calibrate_finishes_a_fit_that_failed_after_training(strategy, one, uneven, tmp_path):
    done = launch(write_job(tmp_path, uneven, strategy, "fit", fault={"verb": "fit", "how": "raise", "step": -1}))
    trained = tmp_path / "fit/run/version_0/checkpoints/trained.ckpt"
    assert done.returncode != 0
    assert f"the adapter as trained is in {trained}" in done.stderr
    found = results(write_job(tmp_path, uneven, strategy, "calibrate", ckpt_path=str(trained)))
    whole = torch.load(one[0] / "fit/run/version_0/checkpoints/epoch=0.ckpt", weights_only=True)["calibration"]
    for rank in found:
        assert rank["calibrate"]["calibration"]["strengths"] == pytest.approx(whole["strengths"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SPREAD)
@pytest.mark.parametrize("then", ["same", "single"])
def test_a_prediction_is_completed_after_a_process_was_killed(strategy, then, one, uneven, tmp_path):
    options = {"ckpt_path": str(one[0] / "fit/run/version_0/checkpoints/last.ckpt"), "eval_batch_size": 1}
    fault = {"verb": "predict", "how": "kill", "step": 2}
    assert launch(write_job(tmp_path, uneven, strategy, "predict", fault=fault, **options)).returncode != 0
    done = sum(len(part.read_text().splitlines()) - 1 for part in tmp_path.glob("predictions.jsonl.part*"))
    assert 0 < done < 7
    results(write_job(tmp_path, uneven, strategy if then == "same" else "single", "predict", **options))
    assert (tmp_path / "predictions.jsonl").read_text() == (one[0] / "predictions.jsonl").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SPREAD)
@pytest.mark.parametrize("launcher", ["torchrun", "lightning"])
@pytest.mark.parametrize("rank", [0, 1])
def test_an_exception_on_one_process_stops_all_with_its_message(strategy, launcher, rank, uneven, tmp_path):
    fault = {"verb": "fit", "how": "raise", "step": 3, "rank": rank}
    job = write_job(tmp_path, uneven, strategy, "fit", fault=fault, launcher=launcher)
    done = launch(job, timeout=150)  # the other process would wait for this one for half an hour
    assert done.returncode != 0
    assert f"process {rank} has met its fate" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SPREAD)
def test_fewer_prompts_than_processes(strategy, one, tmp_path):
    diaries = write_diaries(tmp_path / "data", train=80, calibration=3, test=1, validation=1, predict=1)
    checkpoint = str(one[0] / "fit/run/version_0/checkpoints/last.ckpt")
    found = results(write_job(tmp_path, diaries, strategy, "calibrate", "test", "predict", ckpt_path=checkpoint))
    assert {rank["test"]["test"]["examples"] for rank in found} == {1}
    assert {rank["calibrate"]["calibration"]["examples"] for rank in found} == {3}
    assert [row["id"] for row in read_jsonl(tmp_path / "predictions.jsonl")] == ["predict-0"]
