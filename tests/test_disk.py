"""A full disk, and a folder without the right to write: one line, and the last good file stays."""

import logging
import resource
import shutil
from collections import namedtuple
from contextlib import contextmanager

import lightning as L
import pytest
import torch

from svd_lightning import save_artifact
from svd_lightning.callbacks import PredictionWriter
from svd_lightning.callbacks.space import checkpoint_bytes
from svd_lightning.errors import DiskError, InputError
from svd_lightning.experimental.vector import save_vector
from svd_lightning.files import disk_trouble, write_json, writing
from svd_lightning.models import Backbone
from svd_lightning.objective import ReferenceSnapshot
from svd_lightning.steering import Steering
from tests.chain import Losses, diary_data, diary_model, fit, quiet_trainer, read_jsonl, write_config
from tests.processes import exit_status, fork_module

Usage = namedtuple("Usage", "total used free")


@contextmanager
def no_file_above(size: int):
    """Within it, a file that grows beyond the size meets what a full disk is to a program."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class Fills(L.Callback):
    """Fills the disk as the checkpoint of this number is made."""

    def __init__(self, at: int) -> None:
        self.left = at

    def on_save_checkpoint(self, trainer, pl_module, checkpoint) -> None:
        self.left -= 1
        if self.left == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))  # the log goes on


@pytest.mark.parametrize(
    ("at", "failed", "whole", "steps"),
    [
        (4, "trained.ckpt", "last.ckpt", {"epoch=0-step=6": 6, "last": 6}),
        (5, "epoch=1-step=12.ckpt", "trained.ckpt", {"epoch=0-step=6": 6, "last": 6, "trained": 12}),
        (6, "last.ckpt", "the one before", {"epoch=1-step=12": 12, "last": 6, "trained": 12}),
    ],
    ids=["trained", "best", "last"],
)
def test_a_disk_that_fills_as_a_checkpoint_is_written(at, failed, whole, steps, diaries, tmp_path):
    config = write_config(tmp_path / "config.yaml", diaries, tmp_path, trainer={"max_epochs": 2})
    fills = ["--trainer.callbacks+=tests.test_disk.Fills", "--trainer.callbacks.at", str(at)]
    quick = ["--calibration.alphas", "[]", "--calibration.show_table", "false"]
    log = tmp_path / "log"
    run = fork_module("svd_lightning", "fit", "--config", str(config), *quick, *fills, log=log)
    assert exit_status(run) == 1, log.read_text()
    lines = log.read_text().splitlines()
    assert "Traceback" not in log.read_text()
    [line] = [line for line in lines if "error" in line]
    assert line.startswith("error: ")
    assert f"checkpoints/{failed}: cannot write it: File too large; " in line
    assert f"{whole} is whole; make room there" in line
    folder = tmp_path / "run/version_0/checkpoints"
    assert {p.stem: torch.load(p, weights_only=True)["global_step"] for p in folder.iterdir()} == steps


@pytest.fixture(scope="module")
def peft_model():
    module = diary_model()
    module.configure_model()
    return module.eval().peft_model


def artifact(peft_model, folder):
    save_artifact(
        folder,
        peft_model,
        Steering(strengths=[1.0]),
        Backbone(diary_model().backbone.name_or_path).load_tokenizer(),
    )


@pytest.mark.parametrize("kind", ["json", "vector", "snapshot", "artifact"])
def test_what_cannot_be_written_leaves_what_was_there(kind, peft_model, tmp_path):
    writers = {
        "json": lambda path, size: write_json(path, {"text": "x" * size}),
        "vector": lambda path, size: save_vector(path, torch.zeros(size), {}),
        "snapshot": lambda path, size: snapshot(size).save(path, {"base": "a"}),
        "artifact": lambda path, size: artifact(peft_model, path),
    }
    target = tmp_path / "kept"
    writers[kind](target, 10)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with no_file_above(500), pytest.raises(DiskError) as caught:
        writers[kind](target, 1000)
    assert str(caught.value).startswith(
        f"{target}: cannot write it: File too large; the one before is whole; make room"
    )
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert disk_trouble(caught.value) == str(caught.value)


def snapshot(size):
    found = ReferenceSnapshot()
    found.put([0], torch.zeros(1, dtype=torch.int64), torch.zeros(1, size))
    return found


def test_states_that_outgrow_memory_and_disk(tmp_path):
    found = ReferenceSnapshot(max_memory=100, folder=tmp_path)
    with (
        no_file_above(500),
        pytest.raises(DiskError, match="cannot write it: File too large; checkpoints are whole"),
    ):
        found.put([0], torch.zeros(1, dtype=torch.int64), torch.zeros(1, 1000))


def test_a_loggers_error_is_known_whatever_wraps_it(tmp_path):
    wrapped = ValueError("you tried to log 1 which is currently not supported")
    wrapped.__cause__ = OSError(28, "No space left on device")
    assert disk_trouble(wrapped).startswith(
        "disk: No space left on device; what the run wrote before is whole; make"
    )
    refused = PermissionError(13, "Permission denied", "runs/mine/config.yaml")
    assert disk_trouble(refused).startswith("runs/mine/config.yaml: Permission denied; ")
    assert disk_trouble(ValueError("no disk in it")) is None
    assert disk_trouble(FileNotFoundError(2, "No such file", "data.jsonl")) is None
    with pytest.raises(ValueError, match="bad"), writing(tmp_path):
        raise ValueError("bad")


def test_predictions_go_on_where_the_disk_was_full(diaries, checkpoint, tmp_path):
    class FillsAtTheSecondBatch(L.Callback):
        def on_predict_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
            if batch_idx == 1:
                size = (tmp_path / "out.jsonl.part0").stat().st_size
                resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, resource.RLIM_INFINITY))

    def predict(output, *callbacks):
        trainer = quiet_trainer(tmp_path, PredictionWriter(output=str(output)), *callbacks, logger=False)
        data = diary_data(diaries, eval_batch_size=2)
        trainer.predict(diary_model(), datamodule=data, ckpt_path=checkpoint, return_predictions=False)
        return read_jsonl(output)

    class FillsAtTheEnd(L.Callback):
        def on_predict_epoch_end(self, trainer, pl_module) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (50, resource.RLIM_INFINITY))

    output, part = tmp_path / "out.jsonl", tmp_path / "out.jsonl.part0"
    with no_file_above(10**9), pytest.raises(DiskError, match=r"out.jsonl.part0: .*the rows before are kept"):
        predict(output, FillsAtTheSecondBatch())
    assert part.read_text().count("\n") == 3, "the settings and two rows"
    with (
        no_file_above(10**9),
        pytest.raises(DiskError, match=r"out.jsonl: .*the rows before are kept, and "),
    ):
        predict(output, FillsAtTheEnd())
    rows = part.read_text()
    assert predict(output) == predict(tmp_path / "whole.jsonl")
    assert rows.count("\n") > 3
    assert not part.exists()


def test_too_little_space_is_said_before_the_first_step(diaries, tmp_path, monkeypatch, caplog):
    losses = Losses()

    def run():
        return fit(tmp_path, module := diary_model(), diary_data(diaries), losses), module

    trainer, module = run()
    found = [path.stat().st_size for path in (tmp_path / "run/version_0/checkpoints").iterdir()]
    needed = checkpoint_bytes(trainer, module)
    assert needed == pytest.approx(sum(found) + 2 * max(found), rel=0.2)
    assert "free space" not in caplog.text

    losses.values.clear()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, needed - 1))
    with pytest.raises(InputError, match=r"trainer.logger: expected about .* MB of free space in .*run/version_1"):
        run()
    assert not losses.values
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["version_0"]

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, needed))
    with caplog.at_level(logging.WARNING, "svd_lightning"):
        run()
    assert "a snapshot or table that does not fit is left out" in caplog.text
    assert len(losses.values) == 6
