"""Checkpoints that are whole, whatever happens while one is written."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from svd_lightning.files import replacing
from svd_lightning.strategies.shared import Checkpoint


class CheckpointFiles(TorchCheckpointIO):
    """Lightning's checkpoint files, written beside their place and moved there.

    Lightning writes to the folder for temporary files and moves the result; from another file system that is a
    copy, which a full disk leaves half done in the place of the last good checkpoint.
    """

    def save_checkpoint(
        self, checkpoint: Checkpoint, path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write one file; the one that stood there stays until the new one is whole.

        Raises:
            DiskError: on a full disk, or without the right to write there.
        """
        if "://" in str(path):
            return super().save_checkpoint(checkpoint, path, storage_options)
        content = io.BytesIO()
        torch.save(checkpoint, content)  # to a file, it would hide why the disk refused
        with replacing(Path(path), good=_last_whole(Path(path))) as temporary:
            temporary.write_bytes(content.getbuffer())


def _last_whole(path: Path) -> str | None:
    """Name the newest checkpoint in the folder of one that is to be written."""
    if path.exists() or not (found := list(path.parent.glob("*.ckpt"))):
        return None
    return f"{max(found, key=lambda file: file.stat().st_mtime)} is whole"
