"""What a run prints by default, what `--verbose` adds, and that `run.log` has all of it."""

import logging
import warnings
from pathlib import Path

import pytest

import svd_lightning
from svd_lightning.cli import main
from svd_lightning.run_log import RunLog
from tests.chain import write_config

NOISE = ("GPU available: False", "litlogger", "`loftq_config` specified", "Trainable params", "Seed set to 42")
ACTIONABLE = "The number of training batches (3) is smaller than the logging interval"
QUICK = ("--calibration.alphas", "[]", "--calibration.others", "false")


@pytest.fixture(scope="module")
def run(diaries, tmp_path_factory):
    """Runs a verb with a default screen; returns the folder of the runs."""
    folder = tmp_path_factory.mktemp("quiet")
    changes = {"enable_model_summary": True, "logger": True, "default_root_dir": str(folder)}
    config = write_config(folder / "config.yaml", diaries, folder, trainer=changes)

    def run(verb, *arguments):
        main([verb, "--config", str(config), *QUICK, *arguments])
        return max((folder / "lightning_logs").iterdir(), key=lambda path: int(path.name.partition("_")[2]))

    return run


def test_fit_and_test_say_what_matters_and_log_the_rest(run, capsys):
    before = logging.getLogger("lightning.pytorch").handlers
    fitted = run("fit")
    out, err = capsys.readouterr()
    log = (fitted / "run.log").read_text()
    assert not [noise for noise in NOISE if noise in out + err]
    assert not [noise for noise in NOISE if noise not in log]
    assert out.count("┏") == 1
    assert "│ chosen " in out
    assert "Candidates on the calibration split" in log
    assert "svd_lightning.callbacks.loggers: calibration: " in log
    advice = "24 calibration examples are too few to decide by"
    assert [err.count(advice), " ".join(out.split()).count(advice), log.count(f": calibration: {advice}")] == [
        1,
        1,
        2,
    ]
    assert f"run folder: {fitted}; run.log there has " in out
    assert logging.getLogger("lightning.pytorch").handlers == before

    tested = run("test", "--ckpt_path", str(fitted / "checkpoints/last.ckpt"))
    out, err = capsys.readouterr()
    assert out.count("┏") == 1
    assert err == ""
    assert [line.split()[1] for line in out.splitlines() if line.startswith("│")] == [
        "base",
        "tuned",
        "control",
        "chosen",
    ]
    assert "Candidates on the test split" in (tested / "run.log").read_text()

    loud = run("validate", "--ckpt_path", str(fitted / "checkpoints/last.ckpt"), "--verbose")
    out, err = capsys.readouterr()
    assert "GPU available: False" in err
    assert "val/nll_tuned" in out
    assert "validation NLL, nats per token: base " in out
    assert "GPU available: False" in (loud / "run.log").read_text()


@pytest.fixture
def spoken(capsys):
    """Returns what a process shows of the same records and warnings."""

    def spoken(*, first, verbose=False):
        log = RunLog(first=first)
        with log.listening():
            if verbose:
                log.show_all()
            logging.getLogger("svd_lightning.data").warning("ours")
            logging.getLogger("svd_lightning.data").info("ours, of little weight")
            logging.getLogger("somebody").warning("theirs")
            logging.getLogger("somebody").error("an error")
            warnings.warn_explicit("of a file", UserWarning, "/lib/lightning/loop.py", 3)
            ours = Path(svd_lightning.__file__).with_name("module.py")
            warnings.warn_explicit("skip was deprecated", DeprecationWarning, str(ours), 4)
            warnings.warn_explicit(ACTIONABLE, UserWarning, "/lib/lightning/fit.py", 5)
        return [line for line in capsys.readouterr().err.splitlines() if not line.startswith("/")], log.hidden

    return spoken


def test_the_first_process_shows_what_a_user_can_act_on(spoken):
    logging.getLogger("svd_lightning").setLevel(logging.INFO)
    assert spoken(first=True) == (["ours", "an error", ACTIONABLE], 3)
    lines, hidden = spoken(first=True, verbose=True)
    assert lines[:4] == ["ours", "ours, of little weight", "theirs", "an error"]
    assert hidden == 0


def test_other_processes_show_errors_only(spoken):
    assert spoken(first=False, verbose=True) == (["an error"], 0)


def test_a_crash_before_the_run_has_a_folder_shows_what_was_hidden(capsys):
    def crash():
        with RunLog(first=True).listening():
            logging.getLogger("somebody").warning("theirs")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        crash()
    assert capsys.readouterr().err == "theirs\n"


def test_the_file_has_what_came_before_and_after_it(tmp_path):
    log = RunLog(first=True)
    with log.listening():
        logging.getLogger("somebody").warning("before")
        log.write_to(tmp_path / "run/run.log")
        logging.getLogger("somebody").warning("after")
        log.write_to(tmp_path / "another/run.log")
    text = (tmp_path / "run/run.log").read_text()
    assert [line.partition(" somebody: ")[2] for line in text.splitlines()] == ["before", "after"]
    assert not (tmp_path / "another").exists()
    logging.getLogger("somebody").warning("too late")
    assert (tmp_path / "run/run.log").read_text() == text
