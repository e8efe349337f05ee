"""A run folder as the handle of every verb: what it stands for, and where results go."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from svd_lightning.cli import main
from svd_lightning.commands.inspect.command import inspect
from svd_lightning.handles import Handle, expanded, options
from svd_lightning.report import load_run
from svd_lightning.runs import find_checkpoint, open_run
from tests.chain import read_jsonl, write_jsonl
from tests.test_bad_input import refusal
from tests.test_disk import no_file_above

QUICK = ["--calibration.alphas", "[]", "--calibration.show_table", "false", "--calibration.guard", "false"]


@pytest.fixture(scope="module")
def original(config, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("original")
    main(["fit", "--config", str(config), "--trainer.logger.init_args.save_dir", str(root), *QUICK])
    return root / "run/version_0"


@pytest.fixture
def run(original, tmp_path) -> Path:
    """A copy of the run that the test may change."""
    return shutil.copytree(original, tmp_path / "runs/mine")


def test_what_a_handle_stands_for():
    handle = Handle(Path("runs/mine"), Path("runs/mine/checkpoints/last.ckpt"), {"alpha": 0.3})
    found = options(handle, "test", ["--seed_everything", "1"])
    assert found == [
        *("--config", "runs/mine/config.yaml", "--ckpt_path", "runs/mine/checkpoints/last.ckpt"),
        *("--trainer.default_root_dir", "runs/mine", "--trainer.logger", "false"),
        *("--model.steering", "{alpha: 0.3}", "--calibration.show_table", "true", "--seed_everything", "1"),
    ]
    assert options(handle, "predict", []) == found[:-2]
    own = [*found[:-2], "--data", "svd_lightning.data.Prompts", "--data.path", "a/b.jsonl"]
    own += ["--predict.output", "runs/mine/predictions-b.jsonl", "--predict.compare", "true"]
    assert options(handle, "predict", ["--data", "a/b.jsonl", "--predict.compare", "true"]) == own
    assert options(handle, "predict", ["--data=a/b.jsonl", "--predict.compare", "true"]) == own
    assert options(handle, "predict", ["--data", "JSONLData"])[-2:] == ["--data", "JSONLData"]
    assert str(Path("runs").resolve()) in options(handle, "fit", [])


@pytest.mark.parametrize("words", ["", "test", "test --config x.yaml", "report RUN", "fit --help", "nonsense RUN"])
def test_any_other_command_line_stays_as_it_is(words):
    assert expanded(words.split()) == words.split()


def test_every_verb_takes_the_folder_and_nothing_else(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = (run / "config.yaml").read_bytes()
    main(["test", "runs/mine"])
    assert json.loads((run / "test.json").read_text())["examples"] == 12
    main(["predict", "runs/mine", "--predict.compare", "true"])
    predictions = read_jsonl(run / "predictions.jsonl")
    assert [row["id"] for row in predictions] == [f"predict-{index}" for index in range(6)]
    main(["validate", "runs/mine"])
    main(["report", "runs/mine"])
    assert "Test split: " in (run / "report.html").read_text()
    main(["judge", "runs/mine"])
    assert (run / "predictions.judged.json").exists()
    main(["inspect", "runs/mine"])
    changed = [row["prompt"] for row in predictions if row["tuned"] != row["completion"]]
    assert (changed or [predictions[0]["prompt"]])[0] in (run / "inspect.html").read_text()
    main(["export", "runs/mine", "out"])
    assert (tmp_path / "out/adapter_config.json").exists()
    card = yaml.safe_load((tmp_path / "out/README.md").read_text().split("---\n", 2)[1])
    [result] = card["model-index"][0]["results"]
    tested = json.loads((run / "test_metrics.json").read_text())["metrics"]["NLL"]["steered"]["value"]
    assert [each["value"] for each in result["metrics"] if each["type"] == "nll"] == [tested]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "runs"]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mine"], "no folders beside the run's"
    assert (run / "config.yaml").read_bytes() == before


def test_the_results_are_those_of_the_long_form(run, original, tmp_path):
    main(["test", str(run)])
    place = ["--trainer.logger.init_args.save_dir", str(tmp_path), "--trainer.logger.init_args.name", "long"]
    checkpoint = str(run / "checkpoints/last.ckpt")
    main(["test", "--config", str(run / "config.yaml"), "--ckpt_path", checkpoint, *place])
    assert (run / "test.json").read_text() == (tmp_path / "long/version_0/test.json").read_text()


def test_a_new_calibration_is_what_later_verbs_take(run):
    main(["test", str(run)])
    main(["calibrate", str(run), "--model.steering.alpha", "0.3", *QUICK])
    assert any("another calibration" in note for note in load_run(run).notes)
    main(["test", str(run)])
    assert json.loads((run / "test.json").read_text())["alpha"] == 0.3
    assert open_run(run).steering.alpha == 0.3
    assert not load_run(run).notes
    first = run / "checkpoints/last.ckpt"
    main(["test", str(first)])
    assert json.loads((run / "test.json").read_text())["alpha"] == 0.1, "a checkpoint names itself"


def test_a_full_disk_leaves_the_calibration_that_the_checkpoint_has(run, capsys):
    main(["calibrate", str(run), *QUICK])
    before = (run / "calibration.json").read_bytes()
    with no_file_above(30_000):
        assert "cannot write it: File too large" in refusal(
            capsys, "calibrate", str(run), "--model.steering.alpha", "0.3", *QUICK
        )
    assert (run / "calibration.json").read_bytes() == before
    assert open_run(run).steering.alpha == 0.1


def test_results_of_other_data_are_not_replaced(run, diaries, capsys, tmp_path):
    main(["test", str(run)])
    before = (run / "test.json").read_bytes()
    other = ["--data.test_path", str(diaries / "predict.jsonl"), "--data.predict_path", "null"]
    assert "expected the test split whose results" in refusal(capsys, "test", str(run), *other)
    assert (run / "test.json").read_bytes() == before
    main(["test", str(run), *other, "--trainer.default_root_dir", str(tmp_path / "other")])
    assert json.loads((tmp_path / "other/test.json").read_text())["examples"] == 6


def test_prompts_of_ones_own_are_predicted_without_the_data_of_the_run(run, tmp_path, capsys):
    prompts = write_jsonl(tmp_path / "mine.jsonl", [{"prompt": "winter on the coast , by a monk :"}])
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("/train.jsonl", "/gone.jsonl"))
    main(["predict", str(run), "--data", str(prompts)])
    [row] = read_jsonl(run / "predictions-mine.jsonl")
    assert row["id"] == "mine-1"
    assert row["completion"]
    assert not (run / "predictions.jsonl").exists()
    assert "which exists" in refusal(capsys, "predict", str(run), "--data", str(prompts))


def test_a_fit_trains_on_in_its_folder(run):
    main(["fit", str(run), "--trainer.max_epochs", "2", *QUICK])
    step = torch.load(find_checkpoint(run), weights_only=True)["global_step"]
    assert step == json.loads((run / "calibration.json").read_text())["global_step"] == 12
    assert [path.name for path in run.parent.iterdir()] == ["mine"]


def test_the_run_may_be_the_working_directory(run, monkeypatch):
    monkeypatch.chdir(run)
    main(["test", "."])
    assert (run / "test.json").exists()


NO_RUN = {
    "nowhere": "expected a run folder",
    "empty": "expected a run folder with config.yaml or checkpoints/, got",
    "above": "did you mean ",
}
VERBS = ["test", "predict", "calibrate", "fit", "report", "inspect", "export", "judge", "lm-eval"]


@pytest.mark.parametrize("place", NO_RUN)
@pytest.mark.parametrize("verb", VERBS)
def test_a_folder_that_is_no_run_is_one_line(verb, place, original, tmp_path, capsys):
    if verb == "lm-eval":
        pytest.importorskip("lm_eval")
    (tmp_path / "empty").mkdir()
    shown = original.parent if place == "above" else tmp_path / place
    more = {"export": [str(tmp_path / "out")], "lm-eval": ["--tasks", "arc_easy"]}.get(verb, [])
    message = refusal(capsys, verb, str(shown), *more)
    if verb == "judge" and place == "nowhere":
        assert "expected a run folder with predictions.jsonl, or such a file" in message
    else:
        assert NO_RUN[place] in message
    assert os.listdir(tmp_path) == ["empty"]


def test_a_run_made_from_python_does_not_know_its_data(fitted, capsys):
    names = "expected a config.yaml that names the data in"
    assert "expected config.yaml in" in refusal(capsys, "test", str(fitted))
    with pytest.raises(ValueError, match=f"{names} .*, got none; a run made from Python"):
        inspect(str(fitted))
