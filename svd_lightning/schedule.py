"""Learning-rate schedules: transformers' own, by name and arguments, stepped with every optimizer step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import LRSchedulerConfigType
from torch.optim import Optimizer
from transformers import SchedulerType, get_scheduler

from svd_lightning.errors import InputError, explained

_BY_LOSS = ("reduce_lr_on_plateau", "greedy")
_WITHOUT_ARGUMENTS = ("constant", "constant_with_warmup")


@dataclass(frozen=True)
class Schedule:
    """A learning-rate schedule. Those that follow a loss follow `train/loss`.

    Raises:
        InputError: for a share outside [0, 1], or arguments for a schedule without any.
    """

    name: SchedulerType
    arguments: Mapping[str, Any]
    """The schedule's own, such as min_lr."""
    warmup_ratio: float
    """Share of the steps in which the learning rate rises from 0."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.warmup_ratio <= 1.0:
            raise InputError(f"model.warmup_ratio: expected a share in [0, 1], got {self.warmup_ratio}")
        if self.arguments and SchedulerType(self.name).value in _WITHOUT_ARGUMENTS:
            name, given = SchedulerType(self.name).name, dict(self.arguments)
            raise InputError(f"model.lr_schedule_args: {name} takes none, got {given}; leave them out")

    def check(self, trainer: L.Trainer) -> None:
        """Raise InputError as `make`, before there are weights, data and an optimizer."""
        endless = trainer.max_epochs == -1 and trainer.max_steps == -1
        self.make(torch.optim.SGD([torch.zeros(1)], lr=1.0), steps=float("inf") if endless else 1)

    def make(self, optimizer: Optimizer, steps: float) -> LRSchedulerConfigType:
        """Return the schedule as Lightning takes it.

        Args:
            optimizer: whose learning rate follows it.
            steps: how many there will be; infinite if only `max_time` ends the run.

        Raises:
            InputError: for arguments that it refuses or lacks, or if it needs the number of steps and has none.
        """
        endless = steps == float("inf")
        if endless and self.warmup_ratio:
            raise InputError("model.warmup_ratio: a share of steps needs their number; give trainer.max_steps too")
        warmup, total = (0, None) if endless else (round(self.warmup_ratio * steps), int(steps))
        with explained((TypeError, ValueError), lambda reason: self._problem(reason, endless=endless)):
            schedule = get_scheduler(self.name, optimizer, warmup, total, dict(self.arguments))
        by_loss = SchedulerType(self.name).value in _BY_LOSS
        return {
            "scheduler": schedule,
            "interval": "step",
            "reduce_on_plateau": by_loss,
            "monitor": "train/loss" if by_loss else None,
        }

    def _problem(self, reason: str, *, endless: bool) -> str:
        remedy = (
            "a run that only trainer.max_time ends needs trainer.max_steps too, or --model.lr_schedule CONSTANT"
            if endless
            else "write what it needs as --model.lr_schedule_args.NAME VALUE"
        )
        name, given = SchedulerType(self.name).name, dict(self.arguments)
        return f"model.lr_schedule: cannot make {name} with lr_schedule_args {given}: {reason}; {remedy}"
