"""Runs are opened by folder or checkpoint, or refused in one line."""

import os
import shutil

import pytest

from svd_lightning.errors import InputError
from svd_lightning.runs import find_checkpoint, open_run


def test_a_folder_and_its_checkpoint_open_the_same_calibrated_model(fitted, checkpoint):
    by_folder, by_file = open_run(fitted), open_run(checkpoint)
    assert by_folder.steering.strengths == by_file.steering.strengths
    assert by_folder.steering.calibrated
    assert not by_folder.peft_model.training


def test_the_newest_of_several_last_checkpoints_is_taken(checkpoint, tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for age, name in enumerate(("last-v1.ckpt", "last.ckpt", "epoch=0.ckpt")):
        shutil.copy(checkpoint, folder / name)
        os.utime(folder / name, (0, 1000 - age))
    assert find_checkpoint(tmp_path).name == "last-v1.ckpt"


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"run: expected a run folder or a checkpoint, got .*nowhere"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"run: expected a run folder with config\.yaml or checkpoints/"):
        open_run(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(InputError, match=r"run: expected checkpoints/last\.ckpt"):
        open_run(tmp_path)
    (tmp_path / "broken.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match=r"run: cannot read .*broken"):
        open_run(tmp_path / "broken.ckpt")
