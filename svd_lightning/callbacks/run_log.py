"""The callback that gives the run's log a file."""

import lightning as L

from svd_lightning.callbacks.run import run_folder
from svd_lightning.run_log import RunLog

RUN_LOG = "run.log"


class RunLogFile(L.Callback):
    """Writes what loggers and warnings say to `run.log` in the run folder, and says at the end where that is."""

    def __init__(self, log: RunLog) -> None:
        self._log = log

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Open the file on the first process."""
        if (folder := run_folder(trainer)) is not None and trainer.is_global_zero:
            self._log.write_to(folder / RUN_LOG)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Name the run folder, and how many warnings only its log has."""
        if (folder := run_folder(trainer)) is not None and trainer.is_global_zero:
            hidden = f"; {RUN_LOG} there has {self._log.hidden} warnings of libraries" * (self._log.hidden > 0)
            print(f"run folder: {folder}{hidden}")
