"""`svd-lightning plan`: compute a run's memory from its parsed configuration, and print a table."""

import math
import re
from dataclasses import dataclass

from jsonargparse import Namespace

from svd_lightning.commands.plan.show import plan_table
from svd_lightning.console import console
from svd_lightning.errors import InputError
from svd_lightning.planning.memory import make_plan
from svd_lightning.planning.setting import setting_of

_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "kB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True)
class PlanOptions:
    """Options of `plan` beside those of `fit`."""

    gpu: str | None = None
    """Memory of a device, such as 24GiB, to check whether the run fits; calibration takes no more than that."""
    reserve: str = "1GiB"
    """Part of it for driver, libraries and the allocator's gaps: an assumption, not measured."""
    tokens: int | None = None
    """Completion tokens of the calibration split, for the size of the snapshot; null takes the most that a count
    in `data.calibration` allows."""


def show_plan(config: Namespace) -> None:
    """Print the plan of a parsed configuration.

    Raises:
        InputError: in the cases of `setting_of` and `make_plan`, and for sizes without a unit.
    """
    gpu = None if config.gpu is None else parse_size(config.gpu, "gpu")
    reserve = parse_size(config.reserve, "reserve")
    room = None if gpu is None else max(0, gpu - reserve)
    plan = make_plan(setting_of(config, tokens=config.tokens, gpu=room))
    console().print(plan_table(plan, gpu=gpu, reserve=reserve))


def parse_size(text: str, argument: str) -> int:
    """Return the bytes of a size such as 24GiB.

    Raises:
        InputError: for anything else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    if match is None or match[2] not in _UNITS:
        raise InputError(f"{argument}: expected a size with a unit such as 24GiB or 80GB, got {text!r}")
    return math.floor(float(match[1]) * _UNITS[match[2]])
