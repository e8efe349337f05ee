"""Grids of runs: planned from small files, run so that they can be resumed, tabulated beside published figures."""

from svd_lightning.sweep.command import SweepResult, sweep

__all__ = ["SweepResult", "sweep"]
