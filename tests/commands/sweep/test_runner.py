"""Stages as processes: done once, retried when they failed, ended when the sweep is."""

import os
import signal
import sys
import time

import psutil
import pytest

from svd_lightning.commands.sweep.runner import LOG, run_all
from svd_lightning.commands.sweep.stages import RECEIPT, Stage
from svd_lightning.errors import InputError
from tests.processes import fork

PROGRAM = """
import os, pathlib, signal, sys, time
options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
def note(text):
    with open(options["--runs"], "a") as file:
        file.write(text + "\\n")
def end_slowly(*_):
    time.sleep(1)
    note("ended")
    os._exit(0)
signal.signal(signal.SIGTERM, end_slowly)
note(sys.argv[1])
print("some noise")
if options.get("--wait"):
    time.sleep(float(options["--wait"]))
if pathlib.Path(options.get("--fails_while", "nowhere")).exists():
    sys.exit("error: it is there")
if options.get("--usage"):
    print("error: unknown option", file=sys.stderr)
    sys.exit(2)
"""


@pytest.fixture
def program(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    return [sys.executable, str(tmp_path / "program.py")]


def stage(folder, verb, needs=None, **options):
    return Stage(verb, folder / verb, [("runs", str(folder / "runs.txt")), *options.items()], needs)


def runs(folder):
    return (folder / "runs.txt").read_text().split()


def run(chains, program, **options):
    ended = []
    failures = run_all(chains, **{"jobs": 1, **options}, on_end=lambda *each: ended.append(each), program=program)
    return failures, [stage.verb for stage, _ in ended]


def test_done_stages_are_left_and_failed_ones_tried_again(tmp_path, program):
    trouble = tmp_path / "trouble"
    trouble.touch()
    fit = stage(tmp_path, "fit")
    test = stage(tmp_path, "test", fit, fails_while=str(trouble))
    after = stage(tmp_path, "predict", test)
    failures, ended = run([[fit, test, after]], program)
    assert ended == ["fit", "test"]
    assert [str(each) for each in failures] == [f"{test.folder}: error: it is there (see {test.partial / LOG})"]
    assert (fit.done, test.done, after.done) == (True, False, False)
    trouble.unlink()
    assert run([[fit, test, after]], program) == ([], ["test", "predict"])
    assert runs(tmp_path) == ["fit", "test", "test", "predict"]
    assert (test.folder / LOG).read_text() == "some noise\n"
    assert {path.name for path in test.folder.iterdir()} == {LOG, RECEIPT}
    assert run([[fit, test, after]], program) == ([], [])


def test_one_failure_does_not_stop_the_others(tmp_path, program):
    (tmp_path / "trouble").touch()
    chains = [[stage(tmp_path, "a", fails_while=str(tmp_path / "trouble"))], [stage(tmp_path, "b")]]
    failures, ended = run(chains, program, jobs=2)
    assert [each.stage.verb for each in failures] == ["a"]
    assert sorted(ended) == ["a", "b"]
    assert chains[1][0].done


def test_an_unknown_option_ends_the_sweep(tmp_path, program):
    with pytest.raises(InputError, match=r"unknown option.*the command was: svd-lightning fit"):
        run([[stage(tmp_path, "fit", usage=1)], [stage(tmp_path, "test")]], program)
    assert runs(tmp_path) == ["fit"]


def test_other_settings_are_refused_before_anything_runs(tmp_path, program):
    run([[stage(tmp_path, "fit")]], program)
    with pytest.raises(InputError, match="other settings"):
        run([[stage(tmp_path, "test")], [stage(tmp_path, "fit", wait=0)]], program)
    assert runs(tmp_path) == ["fit"]


def run_two(folder, program):
    """Run in a process of its own: a sweep of two stages that take long."""
    options = [("runs", str(folder / "runs.txt")), ("wait", 50)]
    stages = [[Stage(verb, folder / verb, options)] for verb in ("fit", "test")]
    run_all(stages, jobs=1, on_end=print, program=program)


@pytest.mark.parametrize("sign", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_an_interrupted_sweep_ends_when_its_processes_have(tmp_path, program, sign):
    process = fork(run_two, tmp_path, program)
    try:
        wait_until(lambda: (tmp_path / "runs.txt").exists())
        (child,) = children(process.pid)
        os.kill(process.pid, sign)
        process.join(60)
        assert process.exitcode == 128 + sign
        assert not alive(child)
        assert runs(tmp_path) == ["fit", "ended"]
    finally:
        process.kill()
        process.join()
    assert not (tmp_path / "fit").exists()


def children(pid):
    return psutil.Process(pid).children(recursive=True)


def alive(process):
    return process.is_running() and process.status() != "zombie"


def wait_until(condition):
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it did not happen within a minute")
