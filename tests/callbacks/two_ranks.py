"""Run by test_snapshot_folder.py: three fits on two real processes, which keep their snapshots in one folder."""

import os
import shutil
import sys
from pathlib import Path

import torch

from tests.callbacks.test_snapshot_folder import CountingCalibration
from tests.chain import diary_data, diary_model, fit


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    rank, found = int(os.environ.get("LOCAL_RANK", "0")), {"forwards": [], "nll_base": []}
    for name in ("made", "reused", "one part missing"):
        mine = folder / f"kept/reference-{rank}-of-2"
        if name == "one part missing" and rank == 1:
            shutil.rmtree(mine)
        callback, module = CountingCalibration(snapshot=str(folder / "kept")), diary_model()
        data = diary_data(folder / "data", batch_size=8, eval_batch_size=6)
        fit(folder / name, module, data, callback, devices=2, strategy="ddp")
        assert mine.is_dir()
        found["forwards"].append(callback.forwards)
        found["nll_base"].append(module.calibration["nll_base"])
    torch.save(found, folder / f"rank{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
