"""Grids of runs, described by small files: run, resume, and tabulate them beside published figures.

Why not another tool: Hydra's multirun would replace LightningCLI's configuration, Ray Tune and W&B sweeps search
for the best run but a grid needs all, and make or Snakemake would neither plan nor tabulate.
"""

from svd_lightning.commands.sweep.command import SweepResult, sweep

__all__ = ["SweepResult", "sweep"]
