"""The command line: every verb, its help, and what an interruption leaves."""

import json
import signal
import sys
from pathlib import Path

import pytest
import torch

from svd_lightning import SteeredLanguageModel
from svd_lightning.cli import main
from tests.chain import read_jsonl, write_config
from tests.processes import exit_status, fork_module, interrupted_command

QUICK = ["--calibration.alphas", "[]", "--calibration.show_table", "false"]


@pytest.fixture
def one(config, tmp_path):
    """Runs a verb of the command line into a folder of its own; returns its run folder."""

    def run(verb, *arguments):
        name = f"{verb}-{len(list(tmp_path.iterdir()))}"
        more = [] if verb == "predict" else QUICK
        logger = ["--trainer.logger.init_args.save_dir", str(tmp_path), "--trainer.logger.init_args.name", name]
        main([verb, "--config", str(config), *logger, *more, *arguments])
        return tmp_path / name / "version_0"

    return run


def test_fit_then_every_other_verb(one, capsys, tmp_path):
    run = one("fit", "--calibration.guard", "false")
    names = {"calibration.json", "config.yaml", "checkpoints"}
    assert names <= {path.name for path in run.iterdir()}
    checkpoint = run / "checkpoints" / "last.ckpt"
    calibration = json.loads((run / "calibration.json").read_text())
    module = SteeredLanguageModel.load_from_checkpoint(checkpoint)
    assert list(module.steering.strengths) == calibration["strengths"]

    predicted = one("predict", "--ckpt_path", str(checkpoint), "--predict.compare", "true")
    assert f"answers: {predicted / 'predictions.jsonl'}" in capsys.readouterr().out
    rows = read_jsonl(predicted / "predictions.jsonl")
    assert [row["id"] for row in rows] == [f"predict-{index}" for index in range(6)]
    assert {"completion", "base", "tuned"} <= set(rows[0])

    one("validate", "--ckpt_path", str(checkpoint))
    assert "validation NLL, nats per token: base " in capsys.readouterr().out
    tested = one("test", "--ckpt_path", str(checkpoint))
    assert json.loads((tested / "test.json").read_text())["examples"] == 12

    module.peft_model.save_pretrained(tmp_path / "adapter")
    found = one("calibrate", "--model.adapter", str(tmp_path / "adapter"), "--calibration.guard", "false")
    again = json.loads((found / "calibration.json").read_text())
    assert again["strengths"] == pytest.approx(calibration["strengths"], rel=1e-4)


def test_a_run_is_repeated_by_its_own_config(one, tmp_path):
    run = one("fit")
    main(["fit", "--config", str(run / "config.yaml"), "--trainer.logger.init_args.name", "again"])
    first, second = (
        torch.load(path / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for path in (run, tmp_path / "again/version_0")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("length", "steps"), [({}, 3), ({"max_steps": 4}, 4), ({"max_epochs": 2}, 6)], ids=["none", "steps", "epochs"]
)
def test_a_fit_of_no_given_length_takes_one_epoch(length, steps, diaries, tmp_path):
    config = write_config(tmp_path / "config.yaml", diaries, tmp_path, data={"batch_size": 16})
    content = json.loads(config.read_text())
    del content["trainer"]["max_epochs"]
    content["trainer"] |= length
    config.write_text(json.dumps(content))
    main(["fit", "--config", str(config), *QUICK])
    checkpoint = torch.load(tmp_path / "run/version_0/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == steps


def test_without_a_progress_bar(one, capsys):
    run = one("fit", "--trainer.enable_progress_bar", "false")
    assert (run / "checkpoints/last.ckpt").is_file()
    assert "it/s" not in capsys.readouterr().out


@pytest.mark.parametrize("logger", ["TensorBoardLogger", "CSVLogger"])
def test_existing_run_folders_are_not_overwritten(logger, one, tmp_path, capsys):
    same = ["--trainer.logger", logger, "--trainer.logger.init_args.name", "same"]
    one("fit", *same)
    before = {p: p.read_bytes() for p in sorted((tmp_path / "same").rglob("*")) if p.is_file()}
    one("fit", *same)
    assert (tmp_path / "same/version_1/calibration.json").is_file()
    assert before == {p: p.read_bytes() for p in sorted((tmp_path / "same/version_0").rglob("*")) if p.is_file()}
    with pytest.raises(SystemExit, match=r"expected a new run folder, got .*version_0"):
        one("fit", *same, "--trainer.logger.init_args.version", "0")
    assert all(path.read_bytes() == content for path, content in before.items())


def test_print_config_is_complete_and_comes_back(config, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["fit", "--config", str(config), "--print_config"])
    assert caught.value.code in (0, None)
    text = capsys.readouterr().out
    assert "class_path: peft.LoraConfig" in text
    path = tmp_path / "printed.yaml"
    path.write_text(text)
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(path), "--print_config"])
    assert capsys.readouterr().out == text


def test_the_console_script_in_a_process_of_its_own(config, tmp_path):
    script, log = Path(sys.executable).with_name("svd-lightning"), tmp_path / "log"
    given = ["fit", "--config", str(config), "--model.steering.alpha", "7"]
    assert exit_status(fork_module(str(script), *given, log=log)) == 1
    printed = log.read_text()
    assert [line for line in printed.splitlines() if "error" in line] == [
        "error: steering.alpha: expected a number in (0, 1] or null for no mask, got 7.0; the paper uses 0.1"
    ]
    assert "Traceback" not in printed


def test_ctrl_c_during_fit_leaves_whole_files(config, diaries, tmp_path):
    run = tmp_path / "run" / "version_0"

    def calibrated_twice():
        while True:
            yield (run / "checkpoints/last.ckpt").exists() and (run / "calibration.json").exists()

    given = ["--trainer.max_epochs", "500", "--trainer.logger.init_args.save_dir", str(tmp_path), *QUICK]
    rc = interrupted_command(
        calibrated_twice(), signal.SIGINT, "fit", "--config", str(config), *given, log=tmp_path / "log"
    )
    assert rc == 130
    assert "Traceback" not in (tmp_path / "log").read_text()
    check_whole(run)


def check_whole(run):
    """Every file of a broken-off run can be read, and no half-written one lies about under its name."""
    step = json.loads((run / "calibration.json").read_text())["global_step"]
    not_yet_calibrated = run / "checkpoints/trained.ckpt"
    for path in set((run / "checkpoints").glob("*.ckpt")) - {not_yet_calibrated}:
        content = torch.load(path, weights_only=True)
        stopped = path.name == "stopped.ckpt"  # goes on to the next calibration
        assert content["calibration"]["global_step"] <= step
        assert stopped or content["calibration"]["global_step"] == content["global_step"]
    module = SteeredLanguageModel.load_from_checkpoint(run / "checkpoints/last.ckpt")
    assert module.steering.calibrated
