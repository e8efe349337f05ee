"""A failure between an epoch's last step and its checkpoint loses nothing: `calibrate` finishes the run."""

import os
import signal

import lightning as L
import pytest
import torch

from svd_lightning.cli import main
from svd_lightning.runs import find_checkpoint
from svd_lightning.strength import Mean
from tests.chain import diary_data, diary_model, fit, plain_calibration
from tests.processes import exit_status, fork_module

QUICK = ["--calibration.alphas", "[]", "--calibration.show_table", "false", "--calibration.guard", "false"]


class Fails(Mean):
    """The mean, but on a calibration split it raises, or sends this process a signal."""

    def __init__(self, how: str) -> None:
        self.how = how

    def strength(self, terms) -> float:
        if len(terms.inner) > 2:  # it is tried on two tokens before the first step
            fail(self.how)
        return super().strength(terms)


class FailsInValidation(L.Callback):
    """Raises in the validation that ends an epoch."""

    def __init__(self, epoch: int = 0) -> None:
        self.epoch = epoch

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        if trainer.current_epoch == self.epoch and not trainer.sanity_checking:
            fail("raise")


def fail(how: str) -> None:
    if how == "raise":
        raise RuntimeError("broken")
    os.kill(os.getpid(), signal.Signals[how])


IN_CALIBRATION = ("--calibration.estimator", "tests.callbacks.test_trained.Fails", "--calibration.estimator.how")


@pytest.fixture(scope="module")
def unbroken(config, tmp_path_factory):
    """The same run without a failure."""
    folder = tmp_path_factory.mktemp("unbroken")
    mean = ["--calibration.estimator", "svd_lightning.strength.Mean"]
    main(["fit", "--config", str(config), "--trainer.logger.init_args.save_dir", str(folder), *QUICK, *mean])
    return folder / "run/version_0"


def broken_run(config, folder, *options, status):
    """Run folder and output of a fit that ends with this status."""
    given = ["--trainer.logger.init_args.save_dir", str(folder), *QUICK, *options]
    run = fork_module("svd_lightning", "fit", "--config", str(config), *given, log=folder / "log")
    assert exit_status(run) == status, (folder / "log").read_text()
    return folder / "run/version_0", " ".join((folder / "log").read_text().split())


def finishing(run):
    """The command that finishes it."""
    return ["calibrate", "--config", f"{run}/config.yaml", "--ckpt_path", f"{run}/checkpoints/trained.ckpt"]


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ((*IN_CALIBRATION, "raise"), 1),
        ((*IN_CALIBRATION, "SIGKILL"), -9),
        (("--trainer.callbacks+", "tests.callbacks.test_trained.FailsInValidation"), 1),
    ],
    ids=["calibration", "killed", "validation"],
)
def test_a_failure_after_training_leaves_the_adapter(options, status, config, unbroken, tmp_path):
    run, log = broken_run(config, tmp_path, *options, status=status)
    assert (f"finish with `svd-lightning {' '.join(finishing(run))}`" in log) is (status > 0)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["trained.ckpt"]
    trained, whole = (torch.load(find_checkpoint(each), weights_only=True) for each in (run, unbroken))
    assert all(torch.equal(weight, trained["state_dict"][name]) for name, weight in whole["state_dict"].items())


def test_ctrl_c_leaves_one_checkpoint_that_goes_on(config, unbroken, tmp_path):
    run, log = broken_run(config, tmp_path, *IN_CALIBRATION, "SIGINT", status=130)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["stopped.ckpt"]
    assert "stopped.ckpt goes on" in log
    assert "finish with" not in log


def test_calibrate_finishes_a_broken_run(config, unbroken, tmp_path):
    run, _ = broken_run(config, tmp_path, *IN_CALIBRATION, "raise", status=1)
    main([*finishing(run), "--calibration.estimator", "svd_lightning.strength.Mean"])
    finished, whole = (
        torch.load(find_checkpoint(each), weights_only=True) for each in (run.with_name("version_1"), unbroken)
    )
    assert all(torch.equal(weight, finished["state_dict"][name]) for name, weight in whole["state_dict"].items())
    assert finished["calibration"]["strengths"] == whole["calibration"]["strengths"]
    assert finished["calibration"]["nll_steered"] == whole["calibration"]["nll_steered"]


def test_training_goes_on_from_it(diaries, tmp_path):
    def run(name, *callbacks, **options):
        L.seed_everything(0, verbose=False)
        return fit(tmp_path / name, diary_model(), diary_data(diaries), *callbacks, max_epochs=2, **options)

    with pytest.raises(RuntimeError, match="broken"):
        run("broken", plain_calibration(estimator=Fails("raise")))
    trained = tmp_path / "broken/run/version_0/checkpoints/trained.ckpt"
    runs = [run("whole"), run("resumed", ckpt_path=trained)]
    one, other = (torch.load(trainer.checkpoint_callback.last_model_path, weights_only=True) for trainer in runs)
    assert one["global_step"] == other["global_step"] == 12
    assert all(torch.equal(weight, other["state_dict"][name]) for name, weight in one["state_dict"].items())
    assert one["calibration"]["strengths"] == other["calibration"]["strengths"]


def test_a_failure_in_a_later_epoch_leaves_the_checkpoint_before_too(diaries, tmp_path, caplog):
    with pytest.raises(RuntimeError, match="broken"):
        fit(tmp_path, diary_model(), diary_data(diaries), FailsInValidation(epoch=1), max_epochs=2)
    folder = tmp_path / "run/version_0/checkpoints"
    steps = {path.name: torch.load(path, weights_only=True)["global_step"] for path in folder.iterdir()}
    assert steps == {"epoch=0.ckpt": 6, "last.ckpt": 6, "trained.ckpt": 12}
    assert (
        f"finish with `trainer.calibrate(model, datamodule=data, ckpt_path='{folder}/trained.ckpt')`"
        in caplog.text
    )


def test_a_whole_run_leaves_none(unbroken):
    assert not (unbroken / "checkpoints/trained.ckpt").exists()
