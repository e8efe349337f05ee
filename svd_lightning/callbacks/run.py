"""What a callback asks its trainer and its module for: the data, the run's folder, evaluation mode."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning as L

from svd_lightning.data import CompletionDataModule
from svd_lightning.errors import InputError


def as_completion_data(trainer: L.Trainer) -> CompletionDataModule:
    """Return the trainer's data; raise InputError unless they are prompts and completions."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(data, CompletionDataModule):
        raise InputError(
            f"datamodule: expected a svd_lightning.data.CompletionDataModule with a calibration split, got "
            f"{type(data).__name__}; pass one as trainer.fit(model, datamodule=...)"
        )
    return data


def run_folder(trainer: L.Trainer) -> Path | None:
    """Return the folder of this run's files, or None. Call it on every rank: the name is broadcast.

    Without a logger and a `default_root_dir` Lightning names the working directory, where files of others lie,
    unless it is a run folder itself.
    """
    folder = trainer.log_dir
    at_home = not trainer.loggers and Path(trainer.default_root_dir).resolve() == Path.cwd()
    others = at_home and not Path("config.yaml").is_file()
    return None if folder is None or others else Path(folder)


@contextmanager
def evaluating(module: L.LightningModule) -> Iterator[None]:
    """Put the module into evaluation mode within the context."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
