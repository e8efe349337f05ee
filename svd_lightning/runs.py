"""Run folders: claimed by a new run, found and opened by what comes after."""

import logging
import os
import pickle
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from svd_lightning.checkpoint import CALIBRATED, TRAINED, stored_steering
from svd_lightning.errors import InputError
from svd_lightning.files import writing
from svd_lightning.module import SteeredLanguageModel

_log = logging.getLogger(__name__)


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


def find_checkpoint(run: str | Path) -> Path:
    """Return the checkpoint of a run: the file itself, or the last one in a run folder.

    A run of `fit` ends with `last.ckpt`, one of `calibrate` with `calibrated.ckpt`. A `fit` that broke off after
    its last step leaves `trained.ckpt`.

    Raises:
        InputError: if there is none.
    """
    path = Path(run).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(f"run: expected a run folder or a checkpoint, got {str(run)!r}, and no such file exists")
    names = ("last*.ckpt", CALIBRATED, TRAINED)
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
