"""Run by test_unmasked.py: a calibration without a mask on two real processes."""

import os
import sys
from pathlib import Path

import torch

from svd_lightning.files import write_json
from svd_lightning.steering import KLGradient, NaturalGradient, Steering, as_tensors
from tests.chain import diary_data, diary_model, plain_calibration, quiet_trainer


def main(folder: Path, diaries: Path, checkpoint: Path) -> None:
    torch.set_num_threads(1)
    module = diary_model(steering=Steering([KLGradient(), NaturalGradient()], alpha=None))
    data = diary_data(diaries, eval_batch_size=7)  # two processes and this batch size do not divide the split
    trainer = quiet_trainer(folder, plain_calibration(corrections=True, scale=True), devices=2, strategy="ddp")
    trainer.calibrate(module, datamodule=data, ckpt_path=checkpoint)
    folder.mkdir(exist_ok=True)
    rank = os.environ.get("LOCAL_RANK", "0")
    write_json(folder / f"{rank}.json", module.calibration)
    torch.save(as_tensors(module.corrections), folder / f"{rank}.pt")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
