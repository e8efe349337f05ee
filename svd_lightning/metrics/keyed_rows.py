"""Rows of numbers gathered over batches and processes, each key once."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from svd_lightning.errors import InputError
from svd_lightning.processes import gather


class GatheredRows(Metric):
    """Gathers tensors of rows over batches and processes, of which some may have no rows.

    Subclasses append to the states: each is a list of tensors, and an attribute of that name.

    Args:
        states: for each state a tensor without rows, which gives the dtype and the shape of a row.
    """

    full_state_update = False
    is_differentiable = False

    def __init__(self, states: Mapping[str, Tensor]) -> None:
        super().__init__(dist_sync_fn=gather)
        self._no_rows = dict(states)
        for name in states:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Reduce over processes, unless `sync_on_compute` is False; a process without rows gives empty ones."""
        if self.sync_on_compute:  # torchmetrics looks at it on construction only
            self._fill()
            super().sync(*args, **kwargs)

    def _fill(self) -> None:
        # torchmetrics would send a flat float tensor for any empty list, and the gather would fail or hang
        for name, no_rows in self._no_rows.items():
            if isinstance(state := getattr(self, name), list) and not state:
                state.append(no_rows.to(self.device))

    def _joined(self) -> dict[str, Tensor]:
        """Join every state to one tensor on the CPU."""
        self._fill()
        return {name: dim_zero_cat(getattr(self, name)).cpu() for name in self._no_rows}


class KeyedRows(GatheredRows):
    """Gathers rows under whole-number keys; the first row of a key counts, so repeated samples change nothing.

    Subclasses say what the columns are and what `compute` makes of `gathered`.

    Args:
        keys: how many numbers make a key.
        columns: how many numbers make a row.
    """

    keys: list[Tensor]
    values: list[Tensor]

    def __init__(self, keys: int, columns: int) -> None:
        states = {"keys": (keys, torch.int64), "values": (columns, torch.float64)}
        super().__init__({name: torch.zeros(0, width, dtype=dtype) for name, (width, dtype) in states.items()})

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

    def gathered(self) -> tuple[Tensor, Tensor]:
        """Return the keys int64 [R, k] in order, each once, and their rows float64 [R, c]; on the CPU."""
        keys, values = self._joined().values()
        unique, place = keys.unique(dim=0, return_inverse=True)
        first = torch.full((len(unique),), len(keys)).scatter_reduce(0, place, torch.arange(len(keys)), "amin")
        return unique, values[first]
