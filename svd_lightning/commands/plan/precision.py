"""What Lightning's precision makes of weights and computations."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

from svd_lightning.errors import InputError
from svd_lightning.models import Backbone
from svd_lightning.strategies import checks

_FORMATS = {"bf16": torch.bfloat16, "16": torch.float16, "32": torch.float32}


@dataclass(frozen=True)
class Precision:
    """Number formats of a run."""

    cast: torch.dtype | None = None
    """What all weights, adapter included, are turned into; None leaves the base as stored, and PEFT's adapter
    in float32."""
    autocast: torch.dtype | None = None
    """What matrix products are computed in, whatever the weights are."""

    def context(self) -> AbstractContextManager:
        """Autocast, where there is any."""
        return nullcontext() if self.autocast is None else torch.autocast("cpu", dtype=self.autocast)


def precision_of(name: str | int | None, *, casts_always: bool) -> Precision:
    """Of Lightning's `trainer.precision`.

    Args:
        name: such as bf16-true, bf16-mixed, 32; None is 32-true.
        casts_always: the strategy turns the weights of 32-true runs into float32, too (FSDP1, DeepSpeed).

    Raises:
        InputError: for one that the plan does not know.
    """
    width, _, kind = str(name or "32-true").partition("-")
    if width not in _FORMATS or kind not in ("", "true", "mixed"):
        raise InputError(
            f"trainer.precision: a plan can be made for 32-true, bf16-true, bf16-mixed, 16-true and 16-mixed, got "
            f"{name!r}"
        )
    mixed = kind == "mixed" or (kind == "" and width != "32")
    if mixed:
        return Precision(autocast=_FORMATS[width])
    return Precision(cast=_FORMATS[width] if width != "32" or casts_always else None)


def stored_dtype(backbone: Backbone, config: PretrainedConfig) -> torch.dtype:
    """What the base is loaded in."""
    name = checks.stored_dtype(config) if backbone.dtype == "auto" else backbone.dtype
    dtype: torch.dtype = getattr(torch, name)
    return dtype
