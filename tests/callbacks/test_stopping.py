"""SIGTERM and Ctrl-C at every moment of a run, on one process and on two: what is kept, and what goes on."""

import os
import signal
import time

import psutil
import pytest
import torch
from lightning import Callback

from svd_lightning.signals import Stopped
from tests.callbacks.halting import Run
from tests.chain import ROOT, diary_data, diary_model, fit, read_jsonl


def load(path):
    return torch.load(path, weights_only=True)


def line(text):
    """What the run said after SIGTERM, once."""
    [found] = [line for line in text.splitlines() if line.startswith("stopped by SIGTERM: ")]
    return found.removeprefix("stopped by SIGTERM: ")


EPOCHS = ("--trainer.max_epochs", "2", "--data.init_args.eval_batch_size", "4")

SPREAD = ("--trainer.strategy", "ddp", "--data.init_args.batch_size", "4", "--data.init_args.eval_batch_size", "2")


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory):
    """The checkpoint of a fit that nobody has stopped."""
    run = Run(tmp_path_factory.mktemp("undisturbed") / "fit", "fit", config, *EPOCHS)
    assert run.ended()[0] == [0], run.text()
    return load(run.file("checkpoints/last.ckpt"))


@pytest.mark.parametrize(
    ("moment", "call", "step"),
    [
        pytest.param("on_train_batch_start", 0, 1, marks=pytest.mark.slow),
        pytest.param("on_train_batch_end", 2, 4, marks=pytest.mark.slow),
        pytest.param("on_train_batch_end", 5, 6, marks=pytest.mark.slow),
        ("on_validation_start", 1, 6),
        pytest.param("on_validation_batch_start", 2, 6, marks=pytest.mark.slow),
        pytest.param("on_validation_batch_start", 3, 7, marks=pytest.mark.slow),
    ],
)
def test_fit_saves_what_resumes_it(moment, call, step, undisturbed, config, tmp_path):
    run = Run(tmp_path / "fit", "fit", config, *EPOCHS, halt=(moment, call))
    codes, text = run.halted().send(signal.SIGTERM).ended()
    saved = run.file("checkpoints/stopped.ckpt")
    assert codes == [143], text
    assert line(text) == f"step {step} is saved; the same command with --ckpt_path {saved} goes on"
    assert load(saved)["global_step"] == step
    end = resumed(saved, config, tmp_path, *EPOCHS)
    assert end["global_step"] == end["calibration"]["global_step"] == 12
    if step == 6:  # at the end of an epoch
        assert_same(end, undisturbed)


@pytest.mark.slow
def test_fit_without_validation_is_stopped_before_its_last_calibration(undisturbed, config, tmp_path):
    alone = (*EPOCHS, "--trainer.limit_val_batches", "0")
    run = Run(tmp_path / "fit", "fit", config, *alone, halt=("on_train_epoch_end", 1))
    codes, text = run.halted().send(signal.SIGINT).ended()
    assert codes == [130], text
    assert "stopped by SIGINT: step 12 is saved" in text
    assert_same(resumed(run.file("checkpoints/stopped.ckpt"), config, tmp_path, *alone), undisturbed)


@pytest.mark.slow
def test_after_the_last_step_calibrate_goes_on(config, tmp_path):
    run = Run(tmp_path / "fit", "fit", config, "--trainer.max_steps", "5", halt=("on_train_batch_end", 4))
    codes, text = run.halted().send(signal.SIGTERM).ended()
    saved = run.file("checkpoints/stopped.ckpt")
    assert codes == [143], text
    assert line(text) == (
        f"step 5 is saved; the training is done, and `svd-lightning calibrate` with --ckpt_path {saved} goes on"
    )
    then = Run(tmp_path / "then", "calibrate", config, "--ckpt_path", str(saved))
    assert then.ended()[0] == [0], then.text()
    found, weights = load(then.file("checkpoints/calibrated.ckpt")), load(saved)["state_dict"]
    assert found["calibration"]["strengths"]
    assert all(torch.equal(found["state_dict"][name], weight) for name, weight in weights.items())


@pytest.mark.parametrize(
    ("verb", "moment", "call"),
    [
        ("fit", "setup", 0),
        pytest.param("validate", "on_validation_batch_start", 0, marks=pytest.mark.slow),
        ("test", "on_test_batch_start", 1),
        ("calibrate", "on_validation_start", 0),
        pytest.param("calibrate", "on_validation_batch_start", 1, marks=pytest.mark.slow),
        pytest.param("predict", "setup", 0, marks=pytest.mark.slow),
    ],
)
def test_what_has_nothing_to_keep_leaves_nothing(verb, moment, call, checkpoint, config, tmp_path):
    given = [] if verb == "fit" else ["--ckpt_path", checkpoint]
    run = Run(tmp_path / verb, verb, config, "--data.init_args.eval_batch_size", "4", *given, halt=(moment, call))
    codes, text = run.halted().send(signal.SIGTERM, go=False).ended()
    assert codes == [143], text
    assert line(text) == "nothing is half written; the same command starts again"
    assert "Traceback" not in text
    assert not run.file("").exists()


@pytest.mark.parametrize(
    "moment", ["on_predict_batch_start", pytest.param("on_predict_batch_end", marks=pytest.mark.slow)]
)
def test_the_same_predict_goes_on(moment, checkpoint, config, tmp_path):
    given = ["--data.init_args.eval_batch_size", "2", "--ckpt_path", checkpoint]
    run = Run(tmp_path / "predict", "predict", config, *given, halt=(moment, 1))
    codes, text = run.halted().send(signal.SIGTERM, go=False).ended()
    written = run.file("predictions.jsonl")
    assert codes == [143], text
    assert line(text) == f"2 rows are kept; the same command with --predict.output {written} goes on from them"
    kept = run.file("predictions.jsonl.part0").read_text()
    assert kept.count("\n") == 3
    then = Run(tmp_path / "then", "predict", config, *given, "--predict.output", str(written))
    assert then.ended()[0] == [0], then.text()
    assert [row["id"] for row in read_jsonl(written)] == [f"predict-{number}" for number in range(6)]
    assert not run.file("predictions.jsonl.part0").exists()


def resumed(saved, config, folder, *options):
    """The last checkpoint of the fit that goes on from a checkpoint."""
    run = Run(folder / "resumed", "fit", config, *options, "--ckpt_path", str(saved))
    assert run.ended()[0] == [0], run.text()
    return load(run.file("checkpoints/last.ckpt"))


def assert_same(one, other):
    """Same weights, same strengths."""
    assert one["state_dict"].keys() == other["state_dict"].keys()
    for name, weight in other["state_dict"].items():
        assert torch.equal(one["state_dict"][name], weight)
    assert one["calibration"]["strengths"] == other["calibration"]["strengths"]


class Sender(Callback):
    """Sends this process Ctrl-C at its third batch."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if batch_idx == 2:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def _ctrl_c():
    """The handler of a foreground process; in the background a shell ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c")
def test_ctrl_c_without_the_command_line(diaries, tmp_path, capsys):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Stopped) as caught:
        fit(tmp_path, diary_model(), diary_data(diaries), Sender())
    assert caught.value.code == 130
    saved = tmp_path / "run/version_0/checkpoints/stopped.ckpt"
    told = f"stopped by SIGINT: step 3 is saved; trainer.fit with ckpt_path='{saved}' goes on\n"
    assert told in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before
    trainer = fit(tmp_path, diary_model(), diary_data(diaries), ckpt_path=str(saved))
    assert trainer.global_step == 6


@pytest.mark.slow
def test_another_verb(tmp_path):
    run = Run(tmp_path / "demo", "demo", None, "--output", str(tmp_path / "demo/run"))
    while not run.file("data/predict.jsonl").exists():
        assert run.processes[0].is_alive(), run.text()
        time.sleep(0.01)
    codes, text = run.send(signal.SIGTERM).ended()
    assert codes == [143], text
    assert line(text)


@pytest.mark.parametrize(
    ("strategy", "rank", "moment", "call", "step"),
    [
        ("ddp", 1, "on_train_batch_end", 2, 4),
        pytest.param("ddp", 0, "on_validation_start", 1, 6, marks=pytest.mark.slow),
        pytest.param("ddp", 1, "on_validation_batch_start", 2, 6, marks=pytest.mark.slow),
        pytest.param("fsdp2", 1, "on_train_batch_end", 2, 4, marks=pytest.mark.slow),
        pytest.param("fsdp2", 0, "on_validation_start", 1, 6, marks=pytest.mark.slow),
    ],
)
def test_one_signal_stops_both_processes_of_a_fit(strategy, rank, moment, call, step, config, tmp_path):
    spread = (*EPOCHS, *SPREAD, "--config", str(ROOT / f"configs/strategy/{strategy}.yaml"))
    run = Run(tmp_path / "fit", "fit", config, *spread, halt=(moment, call), processes=2)
    codes, text = run.halted().send(signal.SIGTERM, rank).ended()
    saved = run.file("checkpoints/stopped.ckpt")
    assert codes == [143, 143], text
    assert line(text) == f"step {step} is saved; the same command with --ckpt_path {saved} goes on"
    assert load(saved)["global_step"] == step


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "moment", "call", "rank"),
    [
        ("test", "on_test_batch_start", 0, 1),
        ("calibrate", "on_validation_start", 0, 1),
        ("predict", "on_predict_batch_end", 0, 0),
        ("fit", "setup", 0, 0),
    ],
)
def test_one_signal_stops_both_processes(verb, moment, call, rank, checkpoint, config, tmp_path):
    given = [] if verb == "fit" else ["--ckpt_path", checkpoint]
    given += ["--data.init_args.eval_batch_size", "1", "--trainer.strategy", "ddp"]
    run = Run(tmp_path / verb, verb, config, *given, halt=(moment, call), processes=2)
    codes, text = run.halted().send(signal.SIGINT, rank).ended()
    assert codes == [130, 130], text
    told = text.split("stopped by SIGINT: ")[1:]
    assert [
        line.startswith("2 rows are kept;" if verb == "predict" else "nothing is half written") for line in told
    ] == [True]
    assert run.file("").exists() is (verb == "predict")


@pytest.mark.slow
@pytest.mark.parametrize("to", ["parent", "child", "all"])
def test_processes_that_lightning_starts_end_too(to, config, tmp_path):
    given = (*EPOCHS, *SPREAD, "--trainer.devices", "2")
    run = Run(tmp_path / "fit", "fit", config, *given, halt=("on_train_batch_end", 2))
    while not (run.folder / "halted-1").exists():
        assert run.processes[0].is_alive(), run.text()
        time.sleep(0.01)
    [child] = psutil.Process(run.halted().processes[0].pid).children()
    if to != "parent":
        child.send_signal(signal.SIGTERM)
    run.send(signal.SIGTERM) if to != "child" else (run.folder / "go").touch()
    codes, text = run.ended()
    assert codes == [143], text
    assert line(text).startswith("step 4 is saved")
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_a_signal_to_the_data_workers_too(config, tmp_path):
    run = Run(
        tmp_path / "fit",
        "fit",
        config,
        *EPOCHS,
        "--data.init_args.num_workers",
        "1",
        halt=("on_train_batch_end", 2),
    )
    workers = psutil.Process(run.halted().processes[0].pid).children()
    assert workers
    for worker in workers:
        worker.send_signal(signal.SIGTERM)  # as `timeout` does
    codes, text = run.send(signal.SIGTERM).ended()
    assert codes == [143], text
    assert line(text).startswith("step 4 is saved")
