"""Runs, opened for use outside a Trainer."""

import pickle
from pathlib import Path

from svd_lightning.errors import InputError
from svd_lightning.module import SteeredLanguageModel


def find_checkpoint(run: str | Path) -> Path:
    """The checkpoint meant by a path: the file itself, or the last one that the run in a folder wrote.

    Raises:
        InputError: if there is none.
    """
    path = Path(run).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(f"run: expected a run folder or a checkpoint, got {str(run)!r}, and no such file exists")
    found = sorted(path.glob("checkpoints/last*.ckpt"), key=lambda file: file.stat().st_mtime)
    if not found:
        raise InputError(
            f"run: expected checkpoints/last.ckpt in {str(run)!r}, and there is none; give the run folder of "
            "`svd-lightning fit`, such as runs/truthfulqa/version_0, or a checkpoint"
        )
    return found[-1]


def open_run(run: str | Path) -> SteeredLanguageModel:
    """The module of a run on the CPU, in evaluation mode, with its adapter and, if calibrated, its strengths.

    Args:
        run: a run folder, or a checkpoint.

    Raises:
        InputError: if there is no checkpoint, it cannot be read, or its base has changed since.
    """
    checkpoint = find_checkpoint(run)
    try:
        module = SteeredLanguageModel.load_from_checkpoint(checkpoint, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"run: cannot read {str(checkpoint)!r} as a checkpoint: {reason:.200}") from error
    return module.eval()
