"""How much disk space a run will take, before its first step."""

import logging
import math
import shutil

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from svd_lightning.callbacks.run import run_folder
from svd_lightning.errors import InputError
from svd_lightning.module import SteeredLanguageModel
from svd_lightning.objective.snapshot import MAX_MEMORY

_log = logging.getLogger(__name__)
_PER_WEIGHT = 12
"""Bytes of a trained weight in a checkpoint: float32, with the two moments that Adam keeps of it."""
_PER_CHECKPOINT = 2**15
"""Bytes of the rest of a checkpoint: random states, loops, the calibration's record."""
_PER_TOKEN = 512
"""Bytes of a token in the calibration table: some 25 confident entries, and its own numbers."""


def check_space(trainer: L.Trainer, module: SteeredLanguageModel, tokens: int) -> None:
    """Refuse a disk without room for the checkpoints; warn of one without room for the files of the calibration.

    Args:
        trainer: about to fit.
        module: with its weights.
        tokens: calibration tokens of this process that the snapshot does not hold yet.

    Raises:
        InputError: if the checkpoints do not fit, or hidden states that do not fit into memory either.
    """
    if (folder := run_folder(trainer)) is None:
        return
    base = module.peft_model.get_base_model()
    states = tokens * base.config.get_text_config().hidden_size * base.dtype.itemsize
    needs = {
        "checkpoints": checkpoint_bytes(trainer, module),
        "the snapshot of the base": states * trainer.world_size,
        "the calibration table": tokens * trainer.world_size * _PER_TOKEN,
    }
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    free = trainer.strategy.broadcast(shutil.disk_usage(there).free)
    if sum(needs.values()) <= free:
        return
    listed = ", ".join(f"{name} {_megabytes(size)}" for name, size in needs.items())
    text = (
        f"trainer.logger: expected about {_megabytes(sum(needs.values()))} of free space in {str(folder)!r} "
        f"({listed}), got {_megabytes(free)}; make room there, or choose another folder"
    )
    if needs["checkpoints"] + (states if states > MAX_MEMORY else 0) > free:
        raise InputError(text)
    _log.warning("%s; a snapshot or table that does not fit is left out, and the run goes on", text)


def checkpoint_bytes(trainer: L.Trainer, module: SteeredLanguageModel) -> int:
    """Estimate the space of the checkpoints that are kept, of `trained.ckpt`, and of the one being written."""
    weights = sum(map(math.prod, module.trained.values()))
    callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    sizes = (_PER_CHECKPOINT + weights * (4 if each.save_weights_only else _PER_WEIGHT) for each in callbacks)
    return sum(size * _copies(each) for size, each in zip(sizes, callbacks, strict=True))


def _copies(callback: ModelCheckpoint) -> int:
    """Count a `save_top_k` of −1, all, as 1: how many epochs there will be is not sure."""
    return abs(callback.save_top_k) + bool(callback.save_last) + 2


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
