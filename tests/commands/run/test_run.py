"""`svd-lightning run`: the whole way, and the same command after every kind of interruption."""

import json
import os
import signal
import time

import pytest
import yaml

from svd_lightning.cli import main
from svd_lightning.cli.lightning_verbs import fit_parser
from svd_lightning.commands.demo.task import TASK
from svd_lightning.commands.run.command import as_process, run
from svd_lightning.report import load_validations
from svd_lightning.signals import Stopped, answering
from tests.chain import BASE_FOLDER, write_jsonl
from tests.processes import fork, fork_module
from tests.test_bad_input import refusal

QUICK = ["--calibration.alphas", "[]", "--calibration.others", "false", "--calibration.corrections", "false"]
QUICK += ["--calibration.decoded", "0", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(write_jsonl(tmp_path_factory.mktemp("data") / "diaries.jsonl", TASK.sample(60, seed=1, prefix="d")))


def in_process(words):
    """Run a verb here, as the command line does."""
    try:
        main(list(words))
    except Stopped:
        raise
    except SystemExit as end:
        return 1 if isinstance(end.code, str) else end.code or 0
    return 0


def start(data, folder, *options, perform=in_process):
    with answering():
        words = [str(BASE_FOLDER), data, "--out", str(folder), "--epochs", "1", *QUICK, *options]
        return run(words, parser=fit_parser, perform=perform)


def breaking(moment, call, folder, *, crash=False):
    given = {"moment": moment, "call": call, "folder": str(folder), "crash": crash}
    return [
        "--trainer.callbacks",
        json.dumps([{"class_path": "tests.commands.run.breaking.Breaks", "init_args": given}]),
    ]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The folder of a run that nothing disturbed, and the verbs that it took."""
    folder, verbs = tmp_path_factory.mktemp("whole") / "run", []

    def perform(words):
        verbs.append(words[0])
        return in_process(words)

    assert start(data, folder, perform=perform) == 0
    return folder, verbs


def found(folder):
    """What came of a run."""
    table = json.loads((folder / "test.json").read_text())
    return [table[name] for name in ("examples", "nll_base", "nll_tuned", "nll_steered")]


def test_the_whole_way(whole, data, capsys):
    folder, verbs = whole
    assert verbs == ["fit", "test"]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["model"]["optimizer"]["init_args"]["lr"] == 2e-4
    assert config["data"]["init_args"]["calibration"] == 15
    [validation] = load_validations(folder)
    assert (validation["epochs"], len(validation["examples"])) == (1.0, 6)
    names = {path.name for path in folder.iterdir()}
    assert {"run.yaml", "config.yaml", "checkpoints", "calibration.json", "test.json", "report.html"} <= names
    assert start(data, folder, perform=lambda words: pytest.fail(f"repeated {words[0]}")) == 0
    shown = capsys.readouterr().out
    assert "Going on with" in shown
    assert "chosen: " in shown
    for verb in ("predict", "inspect", "export"):
        assert f"svd-lightning {verb} {folder}" in shown


@pytest.mark.parametrize(
    ("moment", "call", "crash"),
    [
        ("setup", 0, False),  # before the first step: begins anew
        ("on_train_batch_end", 1, False),  # between two steps: goes on from the third
        ("on_validation_end", 1, True),  # after the training, before its checkpoint
        ("on_test_batch_start", 1, False),  # in the test, which is repeated
    ],
)
def test_the_same_command_goes_on(moment, call, crash, data, whole, tmp_path):
    options = breaking(moment, call, tmp_path, crash=crash)
    verbs = []

    def perform(words):
        verbs.append(words[0])
        return in_process(words)

    with pytest.raises(RuntimeError if crash else Stopped):
        start(data, tmp_path / "run", *options, perform=perform)
    before = len(verbs)
    assert start(data, tmp_path / "run", *options, perform=perform) == 0
    expected = {"on_validation_end": ["calibrate", "test"], "on_test_batch_start": ["test"]}
    assert verbs[before:] == expected.get(moment, ["fit", "test"])
    assert found(tmp_path / "run") == pytest.approx(found(whole[0]), rel=1e-4)


def test_a_verb_that_fails_ends_the_run_and_is_repeated(data, tmp_path):
    assert start(data, tmp_path / "run", perform=lambda words: 3) == 3
    verbs = []
    start(data, tmp_path / "run", perform=lambda words: verbs.append(words[0]) or 5)
    assert verbs == ["fit"]


def test_an_adapter_of_ones_own_is_calibrated_and_not_trained(whole, data, tmp_path):
    folder, _ = whole
    main(["export", str(folder), str(tmp_path / "mine")])
    verbs = []

    def perform(words):
        verbs.append(words[0])
        return in_process(words)

    out = tmp_path / "run"
    assert start(data, out, "--adapter", str(tmp_path / "mine"), perform=perform) == 0
    assert verbs == ["calibrate", "test"]
    record = json.loads((out / "calibration.json").read_text())
    assert record["examples"] == 60 - 15 - 6 - 1


def test_other_settings_are_refused_where_there_is_something_to_lose(whole, data, tmp_path, capsys):
    folder, _ = whole
    words = [str(BASE_FOLDER), data, "--out", str(folder), *QUICK]
    assert "(epochs: 1, now 2); choose another --out" in refusal(capsys, "run", *words, "--epochs", "2")
    assert "(lr: None, now 0.1)" in refusal(capsys, "run", *words, "--epochs", "1", "--lr", "0.1")
    assert start(data, tmp_path / "run", perform=lambda words: 3) == 3  # nothing is lost yet
    assert start(data, tmp_path / "run", "--lr", "0.1", perform=lambda words: 4) == 4
    assert yaml.safe_load((tmp_path / "run/run.yaml").read_text())["model"]["optimizer"]["init_args"]["lr"] == 0.1


STAND_IN = """
import os, pathlib, signal, sys, time
def end(*_):
    time.sleep(0.2)
    pathlib.Path("ended").touch()
    os._exit(0)
signal.signal(signal.SIGTERM, end)
pathlib.Path("began").write_text(" ".join(sys.argv[1:]))
time.sleep(60)
"""
"""In place of the package, whose imports take seconds: writes what it was told, and saves something on SIGTERM."""


def perform_stand_in(folder):
    os.chdir(folder)  # where `python -m` looks first
    with answering():
        as_process(["fit", "--config", "run.yaml"])


def test_a_signal_ends_the_process_of_a_verb_which_is_waited_for(tmp_path):
    (tmp_path / "svd_lightning").mkdir()
    (tmp_path / "svd_lightning/__init__.py").touch()
    (tmp_path / "svd_lightning/__main__.py").write_text(STAND_IN)
    process = fork(perform_stand_in, tmp_path)
    began = tmp_path / "began"
    while not (began.exists() and began.read_text()):
        assert process.is_alive()
        time.sleep(0.01)
    process.terminate()
    process.join(60)
    assert process.exitcode == 128 + signal.SIGTERM
    assert began.read_text() == "fit --config run.yaml"
    assert (tmp_path / "ended").exists()


@pytest.mark.slow
def test_a_signal_ends_the_verb_in_its_process_too(data, tmp_path):
    out = tmp_path / "run"
    words = ["run", str(BASE_FOLDER), data, "--out", str(out), "--epochs", "1", *QUICK]
    words += breaking("on_train_batch_end", 1, tmp_path)
    first = fork_module("svd_lightning", *words, log=tmp_path / "first.log")
    while not (tmp_path / "broke").exists() and first.is_alive():
        time.sleep(0.05)
    first.terminate()
    first.join(100)
    log = (tmp_path / "first.log").read_text()
    assert first.exitcode in (128 + signal.SIGTERM, -signal.SIGTERM), log
    assert (out / "checkpoints/stopped.ckpt").exists(), log
    assert "stopped by SIGTERM: what is done is kept; the same command goes on from here" in log


def bad_input(name, data, folder):
    """The command line of something that is refused, and what is said."""
    base, lines = str(BASE_FOLDER), folder / "rows.jsonl"
    (folder / "empty.jsonl").touch()
    (folder / "adapter").mkdir()
    (folder / "adapter/adapter_config.json").write_text("{}")
    (folder / "taken").mkdir()
    (folder / "taken/notes.txt").touch()
    write_jsonl(lines, [{"question": "a", "reply": "b"}])
    return {
        "no-model": (["./nowhere", data], "MODEL: expected a model folder or a hub name, got './nowhere'"),
        "an-adapter": ([str(folder / "adapter"), data], "write svd-lightning run BASE DATA --adapter"),
        "no-file": ([base, "nowhere.jsonl"], "got 'nowhere.jsonl': no such file"),
        "empty-file": ([base, str(folder / "empty.jsonl")], "expected at least one example, got an empty dataset"),
        "other-columns": ([base, str(lines)], "name yours with --data.prompt_column"),
        "no-task": ([base, "truthfullqa"], "did you mean truthfulqa?"),
        "no-adapter": ([base, data, "--adapter", "loar"], "did you mean lora?"),
        "misspelt": ([base, data, "--epohs", "2"], "there is no option --epohs; did you mean --epochs?"),
        "no-option": ([base, data, "--model.nonsense", "1"], "nonsense"),
        "own-option": ([base, data, "--trainer.logger", "false"], "results go into --out"),
        "no-epochs": ([base, data, "--epochs", "0"], "epochs: expected at least 1, got 0"),
        "taken": ([base, data, "--out", str(folder / "taken")], "expected a new folder or one of run, got"),
        "no-data": ([base], "required: DATA"),
    }[name]


@pytest.mark.parametrize(
    "name",
    [
        *("no-model", "an-adapter", "no-file", "empty-file", "other-columns", "no-task"),
        *("no-adapter", "misspelt", "no-option", "own-option", "no-epochs", "taken", "no-data"),
    ],
)
def test_bad_input_is_one_line(name, data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words, message = bad_input(name, data, tmp_path)
    assert message in refusal(capsys, "run", *words)
    assert not (tmp_path / "runs").exists()
