"""Runs, opened for use outside a Trainer."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch.cli import instantiate_module

from svd_lightning.errors import InputError
from svd_lightning.files import parse_json
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
        run: a run folder of fit or calibrate, or a checkpoint.

    Raises:
        InputError: if there is no checkpoint, it cannot be read, or its base has changed since.
    """
    folder = Path(run).expanduser()
    if (folder / "calibration.json").is_file() and not any(folder.glob("checkpoints/last*.ckpt")):
        return _open_calibrated(folder).eval()
    checkpoint = find_checkpoint(run)
    try:
        module = SteeredLanguageModel.load_from_checkpoint(checkpoint, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise _unreadable(checkpoint, error) from error
    return module.eval()


def _open_calibrated(folder: Path) -> SteeredLanguageModel:
    """The module of a run of calibrate, which leaves no checkpoint: what it was given, and what it found."""
    config = _read(folder / "config.yaml", yaml.safe_load)
    options = {name: value for name, value in config["model"].items() if name not in ("optimizer", "lr_schedule")}
    module = instantiate_module(SteeredLanguageModel, options)
    module.configure_model()
    if config.get("ckpt_path") is not None:
        checkpoint = torch.load(config["ckpt_path"], map_location="cpu", weights_only=True)
        module.check_checkpoint(checkpoint)
        module.load_state_dict(checkpoint["state_dict"], strict=False)  # the adapter only
    module.adopt(_read(folder / "calibration.json", parse_json))
    return module


def _read(path: Path, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"run: cannot read {str(path)!r}: {' '.join(str(error).split()):.200}")
