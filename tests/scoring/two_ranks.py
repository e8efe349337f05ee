"""Run by test_two_ranks.py: tests of questions on two real processes, from the command line."""

import sys
from pathlib import Path

import torch

from svd_lightning.cli import main


def run(folder: Path, checkpoint: str) -> None:
    torch.set_num_threads(1)
    for name, batch in (("odd", "1"), ("one", "4")):
        main(
            [
                "test",
                *("--config", str(folder / f"{name}.yaml"), "--ckpt_path", checkpoint),
                *("--trainer.devices", "2", "--trainer.strategy", "ddp"),
                *("--calibration.show_table", "false", "--data.eval_batch_size", batch),
                *("--trainer.logger.init_args.name", name),
            ]
        )


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2])
