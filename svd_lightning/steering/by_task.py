"""A steering for every row of a batch: rows of several tasks side by side."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from svd_lightning.errors import InputError
from svd_lightning.steering.corrections import needs_no_base
from svd_lightning.steering.steering import UNSTEERED, Steering, SteeringFunction


class RowSteering:
    """Steers each row of a batch by its own function.

    Called with both models' logits, [R, …, V] each, where R = B · c and rows b·c to (b+1)·c − 1 belong to row b of
    the batch: this is how `generate` orders the beams, or the sequences to return, of each prompt, and beams never
    leave their prompt.

    Args:
        functions: one for each of the B rows, such as a `Steering`.
        reads_base: whether other batches read the base's logits, if this one does not: processes that share a
            model must run as many forwards as each other.
    """

    def __init__(self, functions: Sequence[SteeringFunction], *, reads_base: bool = False) -> None:
        self._others_read_base = reads_base
        self._functions = list({id(function): function for function in functions}.values())
        place = {id(function): number for number, function in enumerate(self._functions)}
        self._number = torch.tensor([place[id(function)] for function in functions])

    def of(self, rows: Tensor) -> "RowSteering":
        """Return the steering of n tokens of the batch, given the row of each, int64 [n]."""
        chosen = copy.copy(self)
        chosen._number = self._number.to(rows.device)[rows]
        return chosen

    def parts(self) -> Iterator[tuple[Tensor, SteeringFunction]]:
        """Yield each function with its rows, int64."""
        for n, function in enumerate(self._functions):
            yield (self._number == n).nonzero().squeeze(-1), function

    def map(self, change: Callable[[SteeringFunction], SteeringFunction]) -> "RowSteering":
        """Return the steering of the same rows with each function changed."""
        changed = copy.copy(self)
        changed._functions = [change(function) for function in self._functions]
        return changed

    @property
    def reads_base(self) -> bool:
        """Whether any row needs the base's logits, or those of another batch do."""
        return self._others_read_base or any(getattr(one, "reads_base", True) for one in self._functions)

    def settles(self, tuned_logits: Tensor) -> bool:
        """Return whether no row needs the base's logits beside these, [R, …, V]."""
        if len(tuned_logits) % max(len(self._number), 1):
            return False  # the call says what is wrong
        number = self._number.to(tuned_logits.device).repeat_interleave(
            len(tuned_logits) // max(len(self._number), 1)
        )
        rows = ((function, tuned_logits[number == n]) for n, function in enumerate(self._functions))
        return all(needs_no_base(function, logits) for function, logits in rows if len(logits))

    @property
    def forbids(self) -> bool:
        """Whether any row may forbid tokens."""
        return any(getattr(function, "forbids", True) for function in self._functions)

    @property
    def reads_states(self) -> bool:
        """Whether, as a correction, any row needs what the tuned model gives its head."""
        return any(getattr(function, "reads_states", False) for function in self._functions)

    @property
    def adapter_scale(self) -> float:
        """The scale of the adapter at which the tuned model runs, the same for all rows.

        Raises:
            InputError: if it differs.
        """
        scales = {getattr(function, "adapter_scale", 1.0) for function in self._functions}
        if len(scales) > 1:
            found = ", ".join(f"{scale:g}" for scale in sorted(scales))
            raise InputError(
                f"steering: expected one adapter scale for the rows of a batch, got {found}; decode them apart"
            )
        return next(iter(scales), 1.0)

    @property
    def correction(self) -> "RowSteering | None":
        """What corrects the tuned logits of each row; None if no row has a correction."""
        corrections = [getattr(function, "correction", None) for function in self._functions]
        if not any(corrections):
            return None
        rows = copy.copy(self)
        rows._functions = [one or UNSTEERED["tuned"] for one in corrections]
        return rows

    def __call__(self, tuned_logits: Tensor, base_logits: Tensor | None) -> Tensor:
        """Return the steered logits, [R, …, V]; where no row reads the base's, they may be None.

        Raises:
            InputError: if the number of rows is no multiple of the batch's.
        """
        copies, left = divmod(len(tuned_logits), max(len(self._number), 1))
        if left:
            raise InputError(
                f"logits: expected a multiple of {len(self._number)} rows, one steering each, got "
                f"{len(tuned_logits)}; pass the batch that the steering was made for"
            )
        if len(self._functions) == 1 or not len(tuned_logits):
            return self._functions[0](tuned_logits, base_logits)
        number = self._number.to(tuned_logits.device).repeat_interleave(copies)
        if torch.compiler.is_compiling():  # a graph cannot depend on how many rows each function has
            return self._by_choice(number, tuned_logits, base_logits)
        steered: Tensor | None = None
        for n, function in enumerate(self._functions):
            rows = (number == n).nonzero().squeeze(-1)
            if len(rows):
                part = function(tuned_logits[rows], None if base_logits is None else base_logits[rows])
                steered = torch.empty_like(tuned_logits, dtype=part.dtype) if steered is None else steered
                steered[rows] = part
        assert steered is not None
        return steered

    def _by_choice(self, number: Tensor, tuned_logits: Tensor, base_logits: Tensor | None) -> Tensor:
        """Run every function on every row, and pick each row's."""
        number = number.view(-1, *[1] * (tuned_logits.ndim - 1))
        first, *others = self._functions
        steered = first(tuned_logits, base_logits)
        for n, function in enumerate(others, start=1):
            steered = torch.where(number == n, function(tuned_logits, base_logits), steered)
        return steered


@dataclass(frozen=True)
class TaskSteering:
    """The steering of every task of one adapter."""

    shared: Steering
    """For examples without a task, and for tasks that are not in `own`."""
    own: Mapping[str, Steering] = field(default_factory=dict)
    """The steering of each task that has strengths of its own."""

    @property
    def calibrated(self) -> bool:
        """Whether the strengths are known."""
        return self.shared.calibrated

    @property
    def adapter_scale(self) -> float:
        """The scale of the adapter at which the tuned model runs, whatever the task."""
        return RowSteering([self.shared, *self.own.values()]).adapter_scale

    @property
    def is_tuned(self) -> bool:
        """Whether every task is decoded by the tuned model as it is."""
        return all(one.is_tuned for one in (self.shared, *self.own.values()))

    def with_penalty(self, penalty: float) -> "TaskSteering":
        """Return the same strengths with another penalty outside the mask."""
        own = {task: one.with_penalty(penalty) for task, one in self.own.items()}
        return TaskSteering(self.shared.with_penalty(penalty), own)

    def of_task(self, task: str | None) -> Steering:
        """Return the task's steering; the shared one for a task that is not in `own`."""
        return self.shared if task is None else self.own.get(task, self.shared)

    def of_batch(self, batch: Mapping[str, Any]) -> Steering | RowSteering:
        """Return the steering of a batch's rows, by their `task`: a list of names or None, which may be absent."""
        rows = [self.of_task(task) for task in batch.get("task", ())]
        reads_base = any(one.reads_base for one in (self.shared, *self.own.values()))
        as_shared = self.shared.reads_base == reads_base and all(one is self.shared for one in rows)
        return self.shared if as_shared or not rows else RowSteering(rows, reads_base=reads_base)
