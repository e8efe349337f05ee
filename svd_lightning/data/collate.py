"""Padded batches of rows: padded on the right for scoring, on the left for generation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from svd_lightning.data.tokenise import IGNORED, EncodedExample

_Side = Literal["left", "right"]

Batch = Mapping[str, Any]
"""A batch of any kind, its fields by name: tensors [B, ...], and lists of B strings."""


class _PaddedBatch(TypedDict):
    input_ids: Tensor
    attention_mask: Tensor
    index: Tensor
    id: list[str]
    task: list[str | None]


class ScoringBatch(_PaddedBatch):
    """A batch for training, validation and calibration; padded on the right."""

    labels: Tensor


class PredictionBatch(_PaddedBatch):
    """A batch of prompts for generation; padded on the left, so that every row continues at its end."""

    prompt: list[str]
    completion: list[str]


@dataclass(frozen=True, kw_only=True)
class _Collator:
    pad_token_id: int
    """Pads rows; the attention mask tells padding from the same token in the text."""
    multiple_of: int = 1
    """The padded length is rounded up to a multiple of this."""

    def _batch(self, rows: Sequence[EncodedExample], ids: Sequence[Tensor], side: _Side) -> _PaddedBatch:
        return {
            "input_ids": self._padded(ids, self.pad_token_id, side),
            "attention_mask": self._padded([torch.ones_like(row) for row in ids], 0, side),
            "index": torch.tensor([row.index for row in rows]),
            "id": [row.id for row in rows],
            "task": [row.task for row in rows],
        }

    def _padded(self, rows: Sequence[Tensor], value: int, side: _Side) -> Tensor:
        """Pad rows [T_b] to one tensor [B, T]."""
        batch_BT = pad_sequence(list(rows), batch_first=True, padding_value=value, padding_side=side)
        extra = -batch_BT.shape[1] % self.multiple_of
        return pad(batch_BT, (extra, 0) if side == "left" else (0, extra), value=value)


class ScoringCollator(_Collator):
    """Makes a `ScoringBatch`: prompt, then completion; labels are those of the rows, not shifted, else −100."""

    def __call__(self, rows: Sequence[EncodedExample]) -> ScoringBatch:
        ids = [torch.cat([row.prompt_ids, row.completion_ids]) for row in rows]
        labels = self._padded([row.labels for row in rows], IGNORED, "right")
        return {**self._batch(rows, ids, "right"), "labels": labels}


class PredictionCollator(_Collator):
    """Makes a `PredictionBatch`: ids of the prompts alone, and the texts of prompts and reference completions."""

    def __call__(self, rows: Sequence[EncodedExample]) -> PredictionBatch:
        return {
            **self._batch(rows, [row.prompt_ids for row in rows], "left"),
            "prompt": [row.prompt for row in rows],
            "completion": [row.completion for row in rows],
        }
