"""A callback that stops a run at a wanted moment until it is told to go on: tests send signals in between."""

import os
import time
from pathlib import Path
from typing import Any

from lightning import Callback

MOMENTS = (
    "setup",
    "on_train_batch_start",
    "on_train_batch_end",
    "on_train_epoch_end",
    "on_validation_start",
    "on_validation_batch_start",
    "on_test_batch_start",
    "on_predict_batch_start",
    "on_predict_batch_end",
)


class Halt(Callback):
    """Writes its process's number to `halted-RANK` in the folder at one call of a hook, and waits for `go` there.

    Args:
        moment: name of the hook.
        call: which of its calls, from 0.
        folder: where the two files are.
    """

    def __init__(self, moment: str, call: int, folder: str) -> None:
        self.moment, self.call, self.folder = moment, call, Path(folder)
        self.calls = 0


def _hook(name: str) -> Any:
    def halt(self: Halt, trainer: Any, *_: Any, **__: Any) -> None:
        self.calls += name == self.moment
        if name == self.moment and self.calls == self.call + 1:
            (self.folder / f"halted-{trainer.global_rank}").write_text(str(os.getpid()))
            while not (self.folder / "go").exists():
                time.sleep(0.01)

    return halt


for moment in MOMENTS:
    setattr(Halt, moment, _hook(moment))
