"""Label tokens under the tuned model at another scale of its adapter."""

from collections.abc import Sequence
from typing import Protocol

import torch
from peft import PeftModel

from svd_lightning.calibration import LabelSplit
from svd_lightning.data import Batch
from svd_lightning.data.questions import EncodedQuestion
from svd_lightning.objective import LabelCollector
from svd_lightning.scoring.collect import LabelPart
from svd_lightning.scoring.question_tokens import QuestionLabels
from svd_lightning.scoring.tokens import (
    chunk_length,
    completion_tokens,
    scaled_logits,
    scaled_states,
)


class LabelsAlone(Protocol):
    """Takes batches, gives the label tokens."""

    def add(self, batch: Batch) -> None:
        """Add a batch, as `Collector.add` takes it."""
        ...

    def label_split(self) -> LabelSplit | None:
        """Return the tokens of all processes, each once. Call it on every rank."""
        ...


def scaled_collector(
    peft_model: PeftModel, scale: float, *, questions: Sequence[EncodedQuestion] = ()
) -> LabelsAlone:
    """Make what collects the label tokens under the tuned model at a scale, and nothing for further corrections.

    Args:
        peft_model: in evaluation mode.
        scale: of its adapter.
        questions: those of the split, of all processes, where its batches are of questions.
    """
    rows = _ScaledRows(peft_model, scale, bare_labels().to(peft_model.device))
    return QuestionLabels(rows, questions) if questions else rows


def bare_labels() -> LabelCollector:
    """Make a collector of label tokens for no correction: without tokens to change, and without states."""
    return LabelCollector(torch.zeros(0, dtype=torch.int64), 0)


class _ScaledRows(LabelPart):
    """Collects label tokens with a forward of the tuned model at a scale."""

    def __init__(self, peft_model: PeftModel, scale: float, labels: LabelCollector) -> None:
        self._peft_model, self._scale = peft_model, scale
        self.labels = self._into = labels

    def add(self, batch: Batch) -> None:
        tokens, model = completion_tokens(batch), self._peft_model
        states = scaled_states(model, batch, tokens, self._scale)
        fields = (states, tokens.labels, batch["index"][tokens.rows], tokens.positions)
        chunks = (one.split(chunk_length(model)) for one in fields)
        for part, labels, example, position in zip(*chunks, strict=True):
            logits = scaled_logits(model, part, self._scale)
            self._into.update(logits, part[:, :0], labels, example, position)
