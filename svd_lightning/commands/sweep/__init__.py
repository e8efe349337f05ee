"""Grids of runs: planned from small files, run so that they can be resumed, tabulated beside published figures.

Own code, and little of it, because nothing at hand serves better: Hydra's multirun would replace LightningCLI's
configuration by its own, Ray Tune and W&B sweeps search for the best run where here every cell is wanted, and with
make or Snakemake planning and tabulating would be left to write all the same.
"""

from svd_lightning.commands.sweep.command import SweepResult, sweep

__all__ = ["SweepResult", "sweep"]
