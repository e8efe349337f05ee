"""Both models' hidden states on the calibration split, and the stream of logits that follows from them."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from svd_lightning.functional import check_logits
from svd_lightning.models.hidden import base_head, tuned_head, tuned_hidden_states
from svd_lightning.objective import ReferenceSnapshot, TokenStream
from svd_lightning.scoring.collect import reference_states
from svd_lightning.scoring.tokens import CHUNK_ELEMENTS, LogitChunk, completion_states, completion_tokens


class CompletionStates:
    """The final hidden states at the completion tokens, [N, H] of each model, for steering without a mask.

    The decoders run once per batch; from then on every pass over the tokens costs the two heads only, a chunk of
    [n, V] logits at a time. The states lie in CPU memory, or beyond a size in a file (`ReferenceSnapshot`).

    Args:
        peft_model: in evaluation mode, now and in every pass.
        snapshot: where the base's hidden states are kept; None keeps them here.
        folder: where a file of the tuned model's states lies, while this object does.
        around: entered around every head, such as a Trainer's precision.
        chunk_size: tokens per chunk; None brings one float32 [n, V] tensor to 32 MiB.
    """

    def __init__(
        self,
        peft_model: PeftModel,
        *,
        snapshot: ReferenceSnapshot | None = None,
        folder: Path | None = None,
        around: Callable[[], AbstractContextManager[Any]] = nullcontext,
        chunk_size: int | None = None,
    ) -> None:
        self._peft_model, self._around = peft_model, around
        self._base = ReferenceSnapshot(folder=folder) if snapshot is None else snapshot
        self._tuned = ReferenceSnapshot(folder=folder)
        self._vocabulary = peft_model.get_base_model().config.get_text_config().vocab_size
        self._chunk_size = chunk_size or math.ceil(CHUNK_ELEMENTS / self._vocabulary)
        self._labels: dict[int, Tensor] = {}
        self._positions: dict[int, Tensor] = {}

    def add(self, batch: dict[str, Any]) -> None:
        """Keep the states of a batch's completion tokens; an example that is known stays as it is.

        Args:
            batch: input_ids, attention_mask and labels [B, T], and index int64 [B], the number of each example.

        Raises:
            InputError: for an adapter that cannot be switched off.
        """
        tokens, examples = completion_tokens(batch), batch["index"].tolist()
        reference_states(self._peft_model, batch, tokens, self._base)
        hidden = tuned_hidden_states(self._peft_model, batch["input_ids"], batch["attention_mask"])
        self._tuned.put(examples, tokens.rows, completion_states(hidden, tokens))
        for row, example in enumerate(examples):
            mine = tokens.rows == row
            self._labels.setdefault(example, tokens.labels[mine].cpu())
            self._positions.setdefault(example, tokens.positions[mine].cpu())

    def stream(self, tasks: Mapping[int, str] | None = None) -> TokenStream:
        """The tokens added, over all processes. Call it on every rank.

        Args:
            tasks: the task of each example that has one, over all processes.

        Raises:
            InputError: if there is none; later, in a pass, for logits that hold NaN or +∞.
        """
        numbers = [torch.full_like(labels, example) for example, labels in self._labels.items()]
        return TokenStream(
            self._chunks,
            example=_joined(numbers),
            position=_joined(list(self._positions.values())),
            vocabulary=self._vocabulary,
            device=self._peft_model.device,
            tasks=tasks,
        )

    def _chunks(self) -> Iterator[LogitChunk]:
        heads, device = (tuned_head(self._peft_model), base_head(self._peft_model)), self._peft_model.device
        for examples in self._groups():
            states = [kept.get(examples).split(self._chunk_size) for kept in (self._tuned, self._base)]
            labels = torch.cat([self._labels[example] for example in examples]).split(self._chunk_size)
            for tuned, base, label in zip(*states, labels, strict=True):
                with torch.no_grad(), self._around():
                    logits = [head(part.to(device)) for head, part in zip(heads, (tuned, base), strict=True)]
                check_logits("the tuned model's logits", logits[0])
                check_logits("the base model's logits", logits[1])
                yield LogitChunk(logits[0], logits[1], label.to(device))

    def _groups(self) -> Iterator[list[int]]:
        """Examples in their order, a chunk's worth of tokens or a little more at a time."""
        group, size = [], 0
        for example, labels in self._labels.items():
            if len(labels):
                group.append(example)
                size += len(labels)
            if size >= self._chunk_size:
                yield group
                group, size = [], 0
        if group:
            yield group


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)
