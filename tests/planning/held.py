"""Run on two processes: what each holds after a step of training, in bytes, into `HELD-<rank>.json`."""

import json
import os
import sys
from pathlib import Path

import lightning as L
import torch
from lightning import Callback

from tests.chain import diary_data, diary_model, quiet_trainer
from tests.distributed.ranks import new_strategy
from tests.planning.measured import storage_bytes


class Held(Callback):
    """Measures at the end of a training batch."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        parameters = list(pl_module.parameters())
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        states = [value for state in trainer.optimizers[0].state.values() for value in state.values()]
        self.found = {
            "weights": storage_bytes(map(local, (*parameters, *pl_module.peft_model.buffers()))),
            "gradients": storage_bytes(map(local, gradients)),
            "optimizer": sum(local(s).numel() * s.itemsize for s in states if isinstance(s, torch.Tensor)),
        }


def local(tensor):
    return getattr(tensor, "_local_tensor", tensor)


def main(strategy: str, diaries: str, folder: str) -> None:
    torch.set_num_threads(1)
    L.seed_everything(0, verbose=False)
    held = Held()
    options = {
        "strategy": new_strategy(strategy, "cpu"),
        "devices": 2,
        "max_steps": 2,
        "enable_checkpointing": False,
    }
    quiet_trainer(Path(folder), held, **options).fit(diary_model(), datamodule=diary_data(Path(diaries)))
    path = Path(folder) / f"HELD-{os.environ['RANK']}.json"
    path.write_text(json.dumps(held.found))


if __name__ == "__main__":
    main(*sys.argv[1:])
