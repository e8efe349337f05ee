"""Parts of all sharded strategies: the module's device, and reading a checkpoint of one file."""

from pathlib import Path
from typing import Any, TypeAlias

import lightning as L
import torch
from torch import Tensor

from svd_lightning.errors import InputError

Checkpoint: TypeAlias = dict[str, Any]
"""A checkpoint as Lightning makes and reads it."""


def hold_device(module: L.LightningModule | None, device: torch.device) -> None:
    """Set `module.device` for a module whose parameters a strategy moves one by one.

    Lightning learns the device from `module.to(…)` alone, which FSDP1 and ZeRO-3 never call. Tensors made on
    `module.device` (metrics, for example) would stay on the CPU, where NCCL cannot reduce them.
    """
    assert module is not None
    module._device = device


def check_file(path: str | Path) -> None:
    """Raise InputError for a folder of shards, such as Lightning's own strategies write."""
    if Path(path).is_dir():
        raise InputError(f"ckpt_path: expected a single file, got the folder {str(path)!r} of shards")


def read_checked(path: str | Path, module: L.LightningModule | None) -> dict[str, Tensor]:
    """Read the adapter in a checkpoint, and have the module check the checkpoint.

    Sharded strategies load the weights before `on_load_checkpoint` can refuse them, and leave out those they
    do not know.

    Raises:
        InputError: for a folder of shards; as the module's `check_checkpoint`.
    """
    check_file(path)
    content: Checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    assert module is not None
    module.check_checkpoint(content)  # type: ignore[operator]
    return content["state_dict"]
