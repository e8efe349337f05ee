"""Rows of numbers gathered over batches and processes, each key once."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from svd_lightning.errors import InputError


class KeyedRows(Metric):
    """Gathers rows under whole-number keys; the first of a key counts, so that repeated samples change nothing.

    Subclasses say what the columns are and what `compute` makes of `gathered`.

    Args:
        keys: numbers that make a key.
        columns: numbers of a row.
    """

    full_state_update = False
    is_differentiable = False
    keys: list[Tensor]
    values: list[Tensor]

    def __init__(self, keys: int, columns: int) -> None:
        super().__init__()
        self._widths = {"keys": keys, "values": columns}
        self.add_state("keys", default=[], dist_reduce_fx="cat")
        self.add_state("values", default=[], dist_reduce_fx="cat")

    def _add(self, keys: Tensor, values: Tensor) -> None:
        """Add n rows: keys int64 [n, k], values float64 [n, c].

        Raises:
            InputError: for NaN or +∞.
        """
        if values.isnan().any() or values.isposinf().any():
            raise InputError(
                "scores: expected log-probabilities, got NaN or +inf; the adapter may have diverged (lower the "
                "learning rate), or the dtype overflows (use bfloat16 or float32)"
            )
        self.keys.append(keys)
        self.values.append(values)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Reduce over processes; one without rows takes part with empty states of the right type and shape."""
        self._fill()
        super().sync(*args, **kwargs)

    def _fill(self) -> None:
        for name, dtype in (("keys", torch.int64), ("values", torch.float64)):
            if isinstance(state := getattr(self, name), list) and not state:
                state.append(torch.zeros(0, self._widths[name], dtype=dtype, device=self.device))

    def gathered(self) -> tuple[Tensor, Tensor]:
        """Keys int64 [R, k] in order, each once, and their rows float64 [R, c]; on the CPU."""
        self._fill()
        keys, values = (dim_zero_cat(getattr(self, name)).cpu() for name in ("keys", "values"))
        found, place = keys.unique(dim=0, return_inverse=True)
        first = torch.full((len(found),), len(keys)).scatter_reduce(0, place, torch.arange(len(keys)), "amin")
        return found, values[first]
