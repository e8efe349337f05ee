"""How much memory a run needs, before anything is downloaded."""

from svd_lightning.commands.plan.memory import Plan, Setting, make_plan

__all__ = ["Plan", "Setting", "make_plan"]
