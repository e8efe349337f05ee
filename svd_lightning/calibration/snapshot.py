"""The reference distribution of the calibration split, kept as the base's final hidden states."""

from collections.abc import Sequence

import torch
from torch import Tensor


class ReferenceSnapshot:
    """The frozen base's final hidden states at the completion positions of each calibration example.

    The reference logits come from them through the frozen LM head, chunk by chunk: exact, and H/V of the
    size of the logits. Taken once, reused at the end of every epoch.
    """

    def __init__(self) -> None:
        self._states: dict[int, Tensor] = {}

    def has(self, examples: Sequence[int]) -> bool:
        """Whether the states of all these examples are known."""
        return all(example in self._states for example in examples)

    def put(self, examples: Sequence[int], rows: Tensor, states: Tensor) -> None:
        """Keep a batch: example number of each row, row of each token int64 [N], hidden states [N, H]."""
        for row, example in enumerate(examples):
            self._states[example] = states[rows == row].detach().to("cpu", copy=True)

    def get(self, examples: Sequence[int]) -> Tensor:
        """The states of these examples one after the other, [N, H], on the CPU."""
        return torch.cat([self._states[example] for example in examples])
