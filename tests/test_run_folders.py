"""A run's folder is its own: claimed by creating it, and gone again if the run comes to nothing."""

import json
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from svd_lightning.callbacks import PredictionWriter
from svd_lightning.cli import main
from svd_lightning.runs import claim_folder
from tests.chain import diary_data, diary_model, fit, plain_calibration, quiet_trainer, small_lora, write_config
from tests.processes import exit_status, fork, fork_module

LOGGERS = pytest.mark.parametrize("logger", [TensorBoardLogger, CSVLogger])


class Breaks(L.Callback):
    """Raises at the second batch of any kind."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        assert batch_idx < 1, "broken"

    def on_test_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        assert batch_idx < 1, "broken"

    def on_predict_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        assert batch_idx < 1, "broken"


def claim(root: Path, start: int) -> None:
    logger = (TensorBoardLogger, CSVLogger)[start % 2](root, name="run")
    folder, *_ = claim_folder(logger)
    assert Path(logger.log_dir) == folder
    (folder / "mine").write_text(str(start))
    (root / f"{start}.txt").write_text(folder.name)


def test_twenty_starts_at_once_have_twenty_folders(tmp_path):
    assert exit_status(*(fork(claim, tmp_path, start) for start in range(20))) == 0
    found = {path.stem: path.read_text() for path in tmp_path.glob("*.txt")}
    assert sorted(found.values()) == sorted(f"version_{number}" for number in range(20))
    assert all((tmp_path / "run" / name / "mine").read_text() == start for start, name in found.items())


def test_two_fits_at_once_do_not_meet(diaries, tmp_path):
    config = write_config(tmp_path / "config.yaml", diaries, tmp_path, trainer={"max_steps": 2})
    quick = ["--calibration.alphas", "[]", "--calibration.show_table", "false"]
    runs = [
        fork_module("svd_lightning", "fit", "--config", str(config), "--seed_everything", seed, *quick, log=log)
        for seed, log in (("1", tmp_path / "one.log"), ("2", tmp_path / "two.log"))
    ]
    assert exit_status(*runs) == 0, (tmp_path / "one.log").read_text() + (tmp_path / "two.log").read_text()
    folders = sorted((tmp_path / "run").iterdir())
    assert [folder.name for folder in folders] == ["version_0", "version_1"]
    seeds = {yaml.safe_load((folder / "config.yaml").read_text())["seed_everything"] for folder in folders}
    assert seeds == {1, 2}
    for folder in folders:
        assert [path.name for path in folder.glob("checkpoints/last*")] == ["last.ckpt"]
        step = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"]
        assert json.loads((folder / "calibration.json").read_text())["global_step"] == step == 2


@LOGGERS
def test_a_run_that_comes_to_nothing_leaves_no_folder(logger, diaries, checkpoint, tmp_path):
    def trainer(*callbacks):
        return quiet_trainer(tmp_path, *callbacks, logger=logger(tmp_path, name="run"))

    data = diary_data(diaries, eval_batch_size=2)
    with pytest.raises(AssertionError, match="broken"):
        trainer(plain_calibration(), Breaks()).test(diary_model(), datamodule=data, ckpt_path=checkpoint)
    other = diary_model(small_lora(r=2))
    with pytest.raises(ValueError, match="use the adapter configuration of the run that wrote it"):
        trainer().validate(other, datamodule=data, ckpt_path=checkpoint)
    assert not list(tmp_path.iterdir())
    (tmp_path / "run/version_3").mkdir(parents=True)
    with pytest.raises(ValueError, match="use the adapter configuration of the run that wrote it"):
        trainer().validate(other, datamodule=data, ckpt_path=checkpoint)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["version_3"]


@LOGGERS
def test_a_run_that_trained_or_predicted_is_kept(logger, diaries, checkpoint, tmp_path):
    data = diary_data(diaries, eval_batch_size=2)
    with pytest.raises(AssertionError, match="broken"):
        fit(tmp_path, diary_model(), data, Breaks(), logger=logger(tmp_path, name="run"))
    trainer = quiet_trainer(tmp_path, PredictionWriter(), Breaks(), logger=logger(tmp_path, name="run"))
    with pytest.raises(AssertionError, match="broken"):
        trainer.predict(diary_model(), datamodule=data, ckpt_path=checkpoint)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["version_0", "version_1"]
    assert (tmp_path / "run/version_1/predictions.jsonl.part0").exists()


def test_a_folder_that_the_user_named_is_never_removed(diaries, tmp_path):
    kept = tmp_path / "run/version_3/notes.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    data = diary_data(diaries, calibration_path=None, calibration=None)
    with pytest.raises(ValueError, match="expected a calibration split"):
        fit(tmp_path, diary_model(), data, version=3)
    assert kept.read_text() == "mine"


def test_a_root_that_cannot_be_written_to_is_one_line(config, tmp_path):
    (tmp_path / "taken").write_text("a file where a folder should be")
    with pytest.raises(
        SystemExit, match=r"^error: .*taken/run: cannot write it: Not a directory; .*another folder$"
    ):
        main(["fit", "--config", str(config), "--trainer.logger.init_args.save_dir", str(tmp_path / "taken")])
