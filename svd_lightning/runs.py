"""Run folders: claimed by a new run, found and opened by what comes after."""

import logging
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from svd_lightning.checkpoint import CALIBRATED, STOPPED, TRAINED, stored_steering
from svd_lightning.data import CompletionDataModule
from svd_lightning.errors import InputError, explained
from svd_lightning.files import writing
from svd_lightning.module import SteeredLanguageModel

_log = logging.getLogger(__name__)
CONFIG = "config.yaml"
_MARKS = (CONFIG, "checkpoints", "calibration.json", "predictions.jsonl")
"""What a run leaves, one or another: by this a folder is known as one."""


def claim_folder(logger: Logger) -> list[Path]:
    """Create the folder of a logger's next version, which is then this run's alone. Call it on the first process.

    Lightning counts the folders there are, and runs that start together count alike. Returns the folder, and those
    around it that did not exist. Returns none, and leaves the logger as it is, where its version was given or it
    does not count.

    Raises:
        InputError: if the logger would delete the metrics of an earlier run, as a CSVLogger does.
        DiskError: if the folder cannot be created.
    """
    if not isinstance(logger, (TensorBoardLogger, CSVLogger)):
        return []
    if logger._version is not None:
        metrics = Path(logger.log_dir) / ExperimentWriter.NAME_METRICS_FILE
        if isinstance(logger, CSVLogger) and logger._experiment is None and metrics.is_file():
            raise InputError(
                f"trainer.logger: expected a new run folder, got {logger.log_dir!r}, which holds another run's "
                f"{metrics.name}; choose another name or version"
            )
        return []
    if "://" in logger.root_dir:
        return []
    root = Path(os.path.expandvars(logger.root_dir)).expanduser()
    created = [folder for folder in (root, *root.parents) if not folder.exists()]
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
        logger._version = int(logger.version)
        while True:
            folder = root / f"version_{logger._version}"
            try:
                folder.mkdir()
                return [folder, *created]
            except FileExistsError:
                logger._version += 1
            except FileNotFoundError:
                root.mkdir(parents=True, exist_ok=True)  # a run that came to nothing has removed it


def existing_run(place: str | Path) -> Path:
    """Return the folder itself if it is that of a run, whichever verb made it.

    Raises:
        InputError: for anything else; it names a run inside the folder, if there is one.
    """
    folder = Path(place).expanduser()
    if not folder.is_dir():
        raise InputError(f"run: expected a run folder, got {str(place)!r}, and no such folder exists")
    if any((folder / name).exists() for name in _MARKS):
        return folder
    inside = [path.parent for name in _MARKS for deep in ("*", "*/*") for path in folder.glob(f"{deep}/{name}")]
    latest = max(inside, key=lambda path: path.stat().st_mtime, default=None)
    raise InputError(
        f"run: expected a run folder with {_MARKS[0]} or {_MARKS[1]}/, got {str(place)!r}, which has neither"
        + ("" if latest is None else f"; did you mean {latest}?")
    )


def find_resumable(run: str | Path) -> Path:
    """Return the checkpoint from which a fit goes on: the file itself, or the newest one of a run folder.

    `trained.ckpt` is none: `calibrate` finishes it, and its epoch has not ended.

    Raises:
        InputError: if there is none.
    """
    return _newest(Path(run).expanduser(), run, (STOPPED, "last*.ckpt"))


def find_checkpoint(run: str | Path) -> Path:
    """Return the checkpoint of a run: the file itself, or the last one in a run folder.

    A run of `fit` ends with `last.ckpt`, one of `calibrate` with `calibrated.ckpt`. A `fit` that broke off after
    its last step leaves `trained.ckpt`.

    Raises:
        InputError: if there is none.
    """
    return _newest(Path(run).expanduser(), run, ("last*.ckpt", CALIBRATED, TRAINED))


def _newest(path: Path, run: str | Path, names: Sequence[str]) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(f"run: expected a run folder or a checkpoint, got {str(run)!r}, and no such file exists")
    existing_run(path)
    checkpoints = [file for name in names for file in path.glob(f"checkpoints/{name}")]
    if not checkpoints:
        raise InputError(
            f"run: expected checkpoints/last.ckpt in {str(run)!r}, and there is none; give the run folder of "
            "`svd-lightning fit` or `calibrate`, such as runs/truthfulqa/version_0, or a checkpoint"
        )
    return max(checkpoints, key=lambda file: file.stat().st_mtime)


def checkpoint_beside(configs: Sequence[Path]) -> str | None:
    """Return the last checkpoint of the run whose config.yaml is the last of these; None if it is not a run's."""
    if not configs or configs[-1].name != "config.yaml" or not (configs[-1].parent / "checkpoints").is_dir():
        return None
    found = find_checkpoint(configs[-1].parent)
    _log.info("ckpt_path is not given: taking %s", found)
    return str(found)


def read_config(folder: Path) -> dict[str, Any]:
    """Return what the config.yaml of a run says; nothing if it is empty, or not there, as in a run from Python.

    Raises:
        InputError: if it cannot be read.
    """
    path = folder / CONFIG
    if not path.is_file():
        return {}
    unreadable = OSError, UnicodeDecodeError, yaml.YAMLError
    with explained(unreadable, lambda reason: f"run: cannot read {str(path)!r}: {reason}"):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content or {}, dict):
        raise InputError(f"run: expected options by name in {str(path)!r}, got {content!r:.60}")
    return content or {}


def open_data(folder: Path) -> CompletionDataModule:
    """Make the data of a run from its config.yaml; nothing is read yet.

    Raises:
        InputError: if it names none, as in a run made from Python, which has no such file.
    """
    if not (given := read_config(folder).get("data")):
        found = "one without" if (folder / CONFIG).is_file() else "none; a run made from Python has no such file"
        raise InputError(f"run: expected a {CONFIG} that names the data in {str(folder)!r}, got {found}")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(CompletionDataModule, "data", required=True)
    data: CompletionDataModule = parser.instantiate_classes(parser.parse_object({"data": given})).data
    return data


def open_run(run: str | Path) -> SteeredLanguageModel:
    """Load the module of a run on the CPU, in evaluation mode, with its adapter and, if calibrated, its strengths.

    Args:
        run: a run folder of fit or calibrate, or a checkpoint.

    Raises:
        InputError: if there is no checkpoint, it cannot be read, or its base has changed since.
    """
    checkpoint = find_checkpoint(run)
    try:
        steering = stored_steering(checkpoint)
        module = SteeredLanguageModel.load_from_checkpoint(checkpoint, map_location="cpu", steering=steering)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"run: cannot read {str(checkpoint)!r}: {reason:.200}") from error
    return module.eval()
