"""The command line: every verb, and every bad input as one line before any training."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from svd_lightning import SteeredLanguageModel
from svd_lightning.cli import main
from tests.chain import (
    environment,
    interrupted_command,
    other_base,
    read_jsonl,
    write_config,
    write_jsonl,
)

QUICK = ["--calibration.alphas", "[]", "--calibration.show_table", "false"]


@pytest.fixture(scope="module")
def config(diaries, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    return write_config(folder / "config.yaml", diaries, folder)


@pytest.fixture(scope="module")
def checkpoint(fitted) -> str:
    return str(fitted / "checkpoints" / "last.ckpt")


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
    rows = read_jsonl(predicted / "predictions.jsonl")
    assert [row["id"] for row in rows] == [f"predict-{index}" for index in range(6)]
    assert {"completion", "base", "tuned"} <= set(rows[0])

    one("validate", "--ckpt_path", str(checkpoint))
    assert "val/nll_steered" in capsys.readouterr().out
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


def test_existing_run_folders_are_not_overwritten(one, tmp_path, capsys):
    one("fit", "--trainer.logger.init_args.name", "same")
    before = {p: p.read_bytes() for p in sorted((tmp_path / "same").rglob("*")) if p.is_file()}
    one("fit", "--trainer.logger.init_args.name", "same")
    assert (tmp_path / "same/version_1/calibration.json").is_file()
    assert before == {p: p.read_bytes() for p in sorted((tmp_path / "same/version_0").rglob("*")) if p.is_file()}
    with pytest.raises(SystemExit, match=r"expected a new run folder, got .*version_0"):
        one("fit", "--trainer.logger.init_args.name", "same", "--trainer.logger.init_args.version", "0")
    assert all(path.read_bytes() == content for path, content in before.items())


def refusal(capsys, *arguments):
    """Exit status and message of a refused command, known to be one line and to come before any training."""
    with pytest.raises(SystemExit) as caught:
        main([*arguments])
    code = caught.value.code
    output = capsys.readouterr()
    lines = [line for line in output.err.splitlines() if line.startswith("error:")]
    message = code if isinstance(code, str) else lines[-1]
    assert code not in (0, None)
    assert message.startswith("error: ")
    assert "\n" not in message
    assert "Traceback" not in output.err + output.out
    assert "Epoch 0" not in output.out
    return message


ROW = {"prompt": "winter on the coast , by a monk :", "completion": "cold dawn with snow ."}
BAD_FILES = {
    "empty": ([], "expected at least one example, got an empty dataset"),
    "blank": (["", "  "], "expected at least one example, got an empty dataset"),
    "not-json": ([ROW, ROW, "{'prompt': 1}"], "train.jsonl, line 3: expected JSON, got"),
    "not-an-object": ([ROW, "[1]"], "train.jsonl, line 2: expected a JSON object"),
    "lacks-a-key": ([ROW, {"prompt": "x"}], "train.jsonl, line 2: expected the column 'completion', got 'prompt'"),
    "not-text": ([{**ROW, "prompt": 3}], "train.jsonl, line 1: expected text in 'prompt', got 3"),
    "empty-completion": (
        [ROW, {**ROW, "completion": ""}],
        "train.jsonl, line 2: expected a completion, got an empty",
    ),
    "same-id": ([{**ROW, "id": "a"}] * 2, "expected a different one for each example of train, got 'a' twice"),
    "too-long": ([ROW, {**ROW, "prompt": "snow " * 70}], "1 of 2 prompts in the train split leave no room"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(name, config, tmp_path, capsys):
    rows, message = BAD_FILES[name]
    path = write_jsonl(tmp_path / "train.jsonl", rows)
    assert message in refusal(capsys, "fit", "--config", str(config), "--data.path", str(path))


BAD_OPTIONS = {
    "missing-file": (
        "--data.path nowhere.jsonl",
        "expected a file, a folder or a hub dataset, got 'nowhere.jsonl'",
    ),
    "prompt-beyond-context": ("--data.max_length 1000", "at most the model's context of 128 tokens, got 1000"),
    "unknown-column": (
        "--data.prompt_column question",
        "expected the column 'question', got 'id', 'prompt', 'compl",
    ),
    "alpha-0": ("--model.steering.alpha 0", "steering.alpha: expected a number in (0, 1]"),
    "alpha-2": ("--model.steering.alpha 2", "steering.alpha: expected a number in (0, 1]"),
    "penalty": ("--model.steering.penalty 1", "steering.penalty: expected λ ≤ 0"),
    "strength-nan": (
        "--model.steering.strengths [.nan]",
        "steering.strengths: expected finite numbers, got [nan]",
    ),
    "strengths": (
        "--model.steering.strengths [1,2]",
        "steering.strengths: expected one per rule (KLGradient), got 2",
    ),
    "no-calibration": (
        "--data.calibration_path null --data.calibration 0",
        "expected a calibration split, got none",
    ),
    "misspelt": ("--model.steering.alhpa 0.1", "unrecognized arguments: --model.steering.alhpa"),
    "misspelt-group": ("--modle.steering.alpha 0.1", "unrecognized arguments: --modle.steering.alpha"),
    "not-a-number": ("--trainer.max_epochs many", "trainer.max_epochs"),
    "unknown-class": ("--data NoSuchData", "NoSuchData"),
    "generation": ("--model.generation.max_new_token 4", "generation: unknown option max_new_token"),
    "temperature": (
        "--model.generation.temperature -1",
        "generation.temperature: expected a finite number above 0",
    ),
    "no-base": ("--model.backbone.name_or_path ./nowhere", "no such folder exists"),
    "no-adapter": ("--model.adapter null", "model.adapter: expected a PEFT configuration or an adapter folder"),
    "target": ("--model.adapter.init_args.target_modules [nope]", "adapter: cannot attach LoraConfig"),
    "bias": ("--model.adapter.init_args.bias all", "adapter.bias: expected 'none', got 'all'"),
    "checkpoint": ("--ckpt_path nowhere.ckpt", "ckpt_path: expected a checkpoint, got 'nowhere.ckpt'"),
    "config": ("--config nowhere.yaml", "nowhere.yaml"),
    "warmup": ("--model.warmup_ratio 3", "model.warmup_ratio: expected a share in [0, 1], got 3.0"),
    "precision": ("--trainer.precision 17", "precision"),
    "devices": ("--trainer.accelerator abacus", "abacus"),
    "several-rules": (
        "--model.steering.rules+=svd_lightning.steering.NaturalGradient "
        "--calibration.estimator svd_lightning.strength.Mean",
        "defined for a single rule",
    ),
    "features": (
        "--model.steering.features+=svd_lightning.steering.Entropy "
        "--calibration.estimator svd_lightning.strength.Mean",
        "defined for a single rule, got 2",
    ),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_options(name, config, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options, message = BAD_OPTIONS[name]
    assert message in refusal(capsys, "fit", "--config", str(config), *options.split())


def test_no_verb(capsys):
    assert "one of {fit,validate,test,predict,calibrate}" in refusal(capsys)


def test_a_checkpoint_of_another_base(config, checkpoint, tmp_path, capsys):
    base = other_base(tmp_path / "base")
    message = refusal(
        capsys,
        "predict",
        "--config",
        str(config),
        "--model.backbone.name_or_path",
        base,
        "--ckpt_path",
        checkpoint,
    )
    assert re.search("ckpt_path: its adapter was trained on the base .* give the base it was trained on", message)


def test_an_adapter_folder_for_another_base(config, checkpoint, tmp_path, capsys):
    SteeredLanguageModel.load_from_checkpoint(checkpoint).peft_model.save_pretrained(tmp_path / "adapter")
    base = other_base(tmp_path / "other")
    given = ["--model.adapter", str(tmp_path / "adapter"), "--model.backbone.name_or_path", base]
    message = refusal(capsys, "calibrate", "--config", str(config), *given)
    assert re.search("adapter: it was trained on the base '.*demo/base', got the base '.*other'", message)


def test_a_file_that_is_no_checkpoint(config, tmp_path, capsys):
    path = write_jsonl(tmp_path / "file.ckpt", [ROW])
    message = refusal(capsys, "predict", "--config", str(config), "--ckpt_path", str(path))
    assert "ckpt_path: cannot read" in message


def test_a_nan_adapter_in_calibration(config, checkpoint, tmp_path, capsys):
    model = SteeredLanguageModel.load_from_checkpoint(checkpoint).peft_model
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if "lora_A" in n)[0, 0] = torch.nan
    model.save_pretrained(tmp_path / "adapter")
    given = ["--config", str(config), "--model.adapter", str(tmp_path / "adapter")]
    assert "expected finite numbers or -inf, got NaN" in refusal(capsys, "calibrate", *given)


def test_traceback_on_request(config, monkeypatch):
    monkeypatch.setenv("SVD_LIGHTNING_TRACEBACK", "1")
    with pytest.raises(ValueError, match="alpha"):
        main(["fit", "--config", str(config), "--model.steering.alpha", "2"])


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


@pytest.mark.parametrize("verb", ["", "fit", "validate", "test", "predict", "calibrate", "demo"])
def test_help(verb, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*verb.split(), "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    wanted = {"": ["fit", "calibrate", "demo"], "demo": ["--examples"]}
    for word in wanted.get(verb, ["--model.backbone.name_or_path", "Hub name or local folder of the base model"]):
        assert word in " ".join(text.split())


def test_the_console_script_in_a_process_of_its_own(config, tmp_path):
    script = Path(sys.executable).with_name("svd-lightning")
    done = subprocess.run(
        [script, "fit", "--config", config, "--model.steering.alpha", "7"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if "error" in line] == [
        "error: steering.alpha: expected a number in (0, 1] or null for no mask, got 7.0; the paper uses 0.1"
    ]
    assert "Traceback" not in done.stderr


def test_ctrl_c_during_fit_leaves_whole_files(config, diaries, tmp_path):
    run = tmp_path / "run" / "version_0"

    def calibrated_twice():
        while True:
            yield (run / "checkpoints/last.ckpt").exists() and (run / "calibration.json").exists()

    given = ["--trainer.max_epochs", "500", "--trainer.logger.init_args.save_dir", str(tmp_path), *QUICK]
    rc = interrupted_command(
        calibrated_twice(), signal.SIGINT, "fit", "--config", str(config), *given, log=tmp_path / "log"
    )
    assert rc != 0
    assert "Traceback" not in (tmp_path / "log").read_text()
    check_whole(run)


def check_whole(run):
    """Every file of a broken-off run can be read, and no half-written one lies about under its name."""
    step = json.loads((run / "calibration.json").read_text())["global_step"]
    for path in (run / "checkpoints").glob("*.ckpt"):
        content = torch.load(path, weights_only=True)
        assert content["calibration"]["global_step"] == content["global_step"] <= step
    module = SteeredLanguageModel.load_from_checkpoint(run / "checkpoints/last.ckpt")
    assert module.steering.calibrated
