"""Compute how much memory a run needs, before anything is downloaded."""

from svd_lightning.planning.memory import MemoryPlan, Setting, make_plan

__all__ = ["MemoryPlan", "Setting", "make_plan"]
