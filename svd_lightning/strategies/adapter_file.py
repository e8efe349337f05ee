"""The weights of a checkpoint, checked before a sharded strategy writes them into the model."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from svd_lightning.errors import InputError


def read_checked(path: str | Path, module: L.LightningModule | None) -> dict[str, Tensor]:
    """The adapter in a checkpoint, once the module has found nothing wrong with it.

    Sharded strategies load the weights before `on_load_checkpoint` can refuse them, and leave out those they
    do not know.

    Raises:
        InputError: for a folder of shards; as the module's `check_checkpoint`.
    """
    if Path(path).is_dir():
        raise InputError(f"ckpt_path: expected a single file, got the folder {str(path)!r} of shards")
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    assert module is not None
    module.check_checkpoint(content)  # type: ignore[operator]
    return content["state_dict"]
