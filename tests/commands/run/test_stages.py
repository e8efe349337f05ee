"""Which verb comes next, by the files in the folder alone."""

import json
import os
from pathlib import Path

import pytest
import torch

from svd_lightning.commands.run.request import read_request
from svd_lightning.commands.run.stages import State, alone, begin, check_same, read_state, training_words
from svd_lightning.errors import InputError

STATE = State({"lr": None}, training=True, tests=True)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A run that began."""
    begin(tmp_path / "run", STATE, "trainer: {}\n")
    return tmp_path / "run"


def reached(folder: Path, *checkpoints: tuple[str, int, int], epochs: int = 2, steps: int = -1) -> None:
    """Write a configuration, and checkpoints of (name, epoch, step), the newest last."""
    (folder / "config.yaml").write_text(json.dumps({"trainer": {"max_epochs": epochs, "max_steps": steps}}))
    (folder / "checkpoints").mkdir()
    for age, (name, epoch, step) in enumerate(checkpoints):
        path = folder / "checkpoints" / name
        torch.save({"epoch": epoch, "global_step": step}, path)
        os.utime(path, (1000 + age, 1000 + age))


def words(folder: Path, state: State = STATE):
    return training_words(folder, state, read_request(["base", "data.jsonl", "--out", str(folder), "--a.b", "1"]))


LAST, TRAINED, STOPPED = "last.ckpt", "trained.ckpt", "stopped.ckpt"


@pytest.mark.parametrize(
    ("checkpoints", "options", "expected"),
    [
        ([(STOPPED, 0, 3)], {}, ("fit", STOPPED)),
        ([(STOPPED, 1, 8)], {}, ("fit", STOPPED)),  # its epoch has not ended
        ([(STOPPED, 0, 5)], {"steps": 5}, ("calibrate", STOPPED)),
        ([(LAST, 0, 6)], {}, ("fit", LAST)),
        ([(LAST, 1, 12)], {}, None),
        ([(LAST, 0, 6), (STOPPED, 1, 8)], {}, ("fit", STOPPED)),
        ([(STOPPED, 0, 3), (LAST, 1, 12)], {}, None),
        ([(LAST, 0, 6), (TRAINED, 1, 12)], {}, ("calibrate", TRAINED)),
        ([(LAST, 0, 6), (TRAINED, 1, 12)], {"epochs": 3}, ("fit", LAST)),
        ([(TRAINED, 1, 12)], {}, ("calibrate", TRAINED)),
    ],
)
def test_what_trains_or_goes_on(checkpoints, options, expected, folder):
    reached(folder, *checkpoints, **options)
    verb, name = expected or (None, None)
    assert words(folder) == (None if expected is None else [verb, str(folder / "checkpoints" / name)])


def test_a_start_that_came_to_nothing_begins_anew(folder):
    reached(folder, (TRAINED, 0, 6))  # its epoch has not ended, and there is no other
    assert words(folder)[:5] == ["fit", "--config", str(folder / "run.yaml"), "--a.b", "1"]
    assert not (folder / "config.yaml").exists()
    calibrated = words(folder, State({}, training=False, tests=True))
    assert calibrated[0] == "calibrate"
    assert calibrated[-2:] == ["--trainer.default_root_dir", str(folder)]


def test_the_state_of_a_folder(folder, tmp_path):
    assert read_state(folder) == STATE
    assert read_state(tmp_path / "new") is None
    (tmp_path / "empty").mkdir()
    with alone(tmp_path / "empty"):
        pass
    assert read_state(tmp_path / "empty") is None
    for content in ("", "[]", "{}", '{"other": 1}'):
        (folder / "run.json").write_text(content)
        with pytest.raises(InputError, match="expected a new folder or one of run"):
            read_state(folder)


def test_other_settings(folder):
    assert check_same(folder, STATE, {"lr": None})
    assert not check_same(folder, STATE, {"lr": 0.1})
    (folder / "checkpoints").mkdir()
    with pytest.raises(InputError, match=r"other settings \(lr: None, now 0.1\); choose another --out"):
        check_same(folder, STATE, {"lr": 0.1})


def test_two_at_once_do_not_work_in_one_folder(folder):
    with alone(folder), pytest.raises(InputError, match="another run is at work"), alone(folder):
        pass
    with alone(folder):
        pass


def test_what_is_asked_names_files_by_their_content(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.jsonl").write_text("one")
    (tmp_path / "more.yaml").write_text("a: 1")
    asked = [read_request(["base", "data.jsonl", "--config", "more.yaml"]).asked()]
    asked.append(read_request(["base", "./data.jsonl", "--config", "./more.yaml", "--out", "x"]).asked())
    assert asked[0] == asked[1]
    (tmp_path / "data.jsonl").write_text("two")
    assert read_request(["base", "data.jsonl", "--config", "more.yaml"]).asked() != asked[0]
