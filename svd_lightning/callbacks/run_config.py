"""The callback that keeps a run's configuration beside its results."""

from pathlib import Path

import lightning as L
from lightning.pytorch.cli import SaveConfigCallback

from svd_lightning.errors import InputError
from svd_lightning.files import replacing


class NewRunFolder(SaveConfigCallback):
    """Saves the run's configuration; refuses a folder with that of another run.

    A verb whose checkpoint lies in the folder belongs to the run there, and leaves its configuration as it is.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write the file beside its place and move it there; Lightning would leave half of it on a full disk.

        Raises:
            InputError: if there is one already.
        """
        if self.already_saved:
            return
        path = Path(trainer.log_dir or trainer.default_root_dir) / self.config_filename
        checkpoint = Path(str(self.config.get("ckpt_path"))).resolve()
        if checkpoint.parent.parent == path.parent.resolve():
            self.already_saved = True
            return
        if trainer.strategy.broadcast(path.exists()):
            raise InputError(
                f"trainer.logger: expected a new run folder, got {str(path.parent)!r}, which holds another run's "
                f"{self.config_filename}; choose another name or version"
            )
        if trainer.is_global_zero:
            with replacing(path) as temporary:
                self.parser.save(self.config, temporary, skip_none=False, overwrite=True, multifile=False)
        self.already_saved = True
