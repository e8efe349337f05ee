"""What a run folder has, and which verb comes next: everything is read from the files in it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from svd_lightning.checkpoint import STOPPED, TRAINED
from svd_lightning.commands.run.outlook import Outlook
from svd_lightning.commands.run.request import Request
from svd_lightning.errors import InputError
from svd_lightning.files import strict, write_json, write_text
from svd_lightning.handles import pinned
from svd_lightning.report.folder import RECORD, load_run, of_calibration
from svd_lightning.runs import CONFIG, find_resumable, read_config

STATE, CONTENT, LOCK = "run.json", "run.yaml", ".run.lock"


@dataclass(frozen=True)
class State:
    """What `run` keeps in the folder beside the files of the verbs."""

    asked: dict[str, Any]
    """What the user asked for, as `Request.asked`."""
    training: bool
    """Whether an adapter is trained, and not only calibrated."""
    tests: bool
    """Whether there is a test split."""
    trained: bool = False
    """Whether the adapter is trained and calibrated."""


def read_state(folder: Path) -> State | None:
    """Return what a run kept; None where no run began.

    Raises:
        InputError: for a folder that holds something else.
    """
    path = folder / STATE
    if path.is_file():
        with suppress(ValueError, TypeError):
            return State(**json.loads(path.read_text(encoding="utf-8")))
    if not folder.exists() or (folder.is_dir() and not any(each.name != LOCK for each in folder.iterdir())):
        return None
    raise InputError(f"out: expected a new folder or one of run, got {str(folder)!r}; choose another --out")


def new_state(outlook: Outlook, asked: dict[str, Any]) -> State:
    """Return the state of a run that begins."""
    return State(asked, training=outlook.epochs > 0, tests=outlook.splits["test"] > 0)


def write_state(folder: Path, state: State) -> None:
    """Keep the state."""
    write_json(folder / STATE, vars(state))


def check_same(folder: Path, state: State, asked: dict[str, Any]) -> bool:
    """Return whether the folder's run goes on; False if it has nothing yet, and other settings may begin there.

    Raises:
        InputError: for other settings than those of a run that has something to lose.
    """
    differ = [name for name, value in strict(asked).items() if state.asked.get(name) != value]
    if not differ:
        return True
    if not (folder / "checkpoints").exists() and not (folder / RECORD).exists():
        return False
    name = differ[0]
    raise InputError(
        f"out: {str(folder)!r} holds a run with other settings ({name}: {_shown(state.asked.get(name))}, now "
        f"{_shown(asked[name])}); choose another --out, or delete that folder"
    )


def begin(folder: Path, state: State, content: str) -> None:
    """Write what a run begins with."""
    write_text(folder / CONTENT, content)
    write_state(folder, state)


def training_words(folder: Path, state: State, request: Request) -> list[str] | None:
    """Return the command that trains and calibrates, or goes on with it; None where both are done."""
    given = ["--config", str(folder / CONTENT), *request.overrides]
    trained, newest = folder / "checkpoints" / TRAINED, _resumable(folder) if state.training else None
    if state.training and _newer(trained, newest) and _weights_done(folder, trained):
        return ["calibrate", str(trained)]
    if newest is None:
        (folder / CONFIG).unlink(missing_ok=True)  # a start that came to nothing has left it
        if state.training:
            return ["fit", *given, *pinned(folder)]
        return ["calibrate", *given, "--trainer.logger", "false", "--trainer.default_root_dir", str(folder)]
    if not _weights_done(folder, newest):
        return ["fit", str(newest)]
    return ["calibrate", str(newest)] if newest.name == STOPPED else None


def is_tested(folder: Path) -> bool:
    """Return whether the folder has a test with the calibration that is in force."""
    run = load_run(folder)
    return run.metrics is not None and of_calibration(run.metrics, run.record)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Within it no other process works on the folder; processes that this one starts keep the lock too.

    Raises:
        InputError: if another one does.
    """
    try:
        import fcntl  # not on every system
    except ImportError:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"out: another run is at work in {str(folder)!r}; wait for it") from error
        yield


def _resumable(folder: Path) -> Path | None:
    with suppress(InputError):
        return find_resumable(folder)
    return None


def _newer(one: Path, other: Path | None) -> bool:
    return one.exists() and (other is None or one.stat().st_mtime > other.stat().st_mtime)


def _weights_done(folder: Path, checkpoint: Path) -> bool:
    """Return whether the training of a checkpoint has come to its end."""
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    trainer = read_config(folder).get("trainer") or {}
    epochs, steps = trainer.get("max_epochs"), trainer.get("max_steps", -1)
    if steps != -1 and content["global_step"] >= steps:
        return True
    return checkpoint.name != STOPPED and epochs is not None and content["epoch"] + 1 >= epochs > 0


def _shown(value: Any) -> str:
    return f"{value!r:.60}"
