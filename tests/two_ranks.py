"""Run by test_two_ranks.py: fit, calibrate, test and predict through the command line on two real processes."""

import sys
from pathlib import Path

import torch

from svd_lightning.cli import main


def run(folder: Path, checkpoint: str) -> None:
    torch.set_num_threads(1)
    two = ["--config", str(folder / "config.yaml"), "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    quick = ["--calibration.alphas", "[]", "--calibration.guard", "false", "--calibration.show_table", "false"]
    main(["fit", *two, *quick, *("--trainer.logger.init_args.name", "fit")])
    # a fresh adapter is replaced by the checkpoint's, whichever strategy wrote it
    main(["calibrate", *two, *quick, "--ckpt_path", checkpoint, "--trainer.logger.init_args.name", "calibrate"])
    main(["test", *two, *quick, "--ckpt_path", checkpoint, "--trainer.logger.init_args.name", "test"])
    name = ["--trainer.logger.init_args.name", "predict"]
    output = ["--predict.output", str(folder / "two.jsonl"), "--predict.compare", "true"]
    main(["predict", *two, *name, *output, "--ckpt_path", checkpoint])


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2])
