"""Answers sampled from a frozen base, and what it says of the labels of a batch."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from svd_lightning.data import EncodedExample, PredictionCollator
from svd_lightning.scoring.tokens import IGNORED, completion_tokens


class Answers(NamedTuple):
    """What was sampled for one prompt."""

    ids: list[Tensor]
    """Tokens of each answer, its EOS included, int64."""
    texts: list[str]


class AddVector(LogitsProcessor):
    """Adds a vector [V] to the logits of every step; normalised, as beam search needs it."""

    def __init__(self, vector: Tensor) -> None:
        self.vector = vector

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return (scores.float() + self.vector).log_softmax(dim=-1)


@torch.no_grad()
def sample_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[EncodedExample],
    *,
    samples: int,
    max_new_tokens: int,
    vector: Tensor | None = None,
) -> list[Answers]:
    """Answers to each row's prompt, drawn from the model's own distribution: temperature 1, nothing cut off.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        rows: their prompts count.
        samples: per prompt.
        max_new_tokens: where an answer without EOS ends.
        vector: added to the logits, [V].
    """
    batch = PredictionCollator(pad_token_id=tokenizer.pad_token_id)(rows)
    config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        repetition_penalty=1.0,
        num_beams=1,
        num_return_sequences=samples,
        max_new_tokens=max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    found = model.generate(
        input_ids=batch["input_ids"].to(model.device),
        attention_mask=batch["attention_mask"].to(model.device),
        generation_config=config,
        logits_processor=LogitsProcessorList([] if vector is None else [AddVector(vector)]),
    )
    ids = [_until(answer, tokenizer.eos_token_id) for answer in found[:, batch["input_ids"].shape[1] :].cpu()]
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [
        Answers(ids[start : start + samples], texts[start : start + samples])
        for start in range(0, len(ids), samples)
    ]


def answered(rows: Iterable[tuple[Tensor, Tensor]], *, pad_token_id: int) -> dict[str, Tensor]:
    """Prompts with answers as a labelled batch [R, T], padded on the right."""
    joined = [(torch.cat([prompt, answer]), len(prompt)) for prompt, answer in rows]
    width = max(len(ids) for ids, _ in joined)
    batch = {
        "input_ids": torch.full((len(joined), width), pad_token_id),
        "attention_mask": torch.zeros(len(joined), width, dtype=torch.int64),
        "labels": torch.full((len(joined), width), IGNORED),
    }
    for row, (ids, start) in enumerate(joined):
        batch["input_ids"][row, : len(ids)] = ids
        batch["attention_mask"][row, : len(ids)] = 1
        batch["labels"][row, start : len(ids)] = ids[start:]
    return batch


class LabelLogits(NamedTuple):
    """A frozen model's logits where the labels of a batch are predicted."""

    logits: Tensor
    """float32 [N, V]"""
    labels: Tensor
    """int64 [N]"""
    rows: Tensor
    """Row of the batch, int64 [N]"""


@torch.no_grad()
def label_logits(model: PreTrainedModel, batch: Mapping[str, Any]) -> LabelLogits:
    """Logits of a labelled batch [B, T]; takes B · T · V numbers, so keep batches small."""
    batch = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask", "labels")}
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    tokens = completion_tokens(batch)
    return LabelLogits(logits[tokens.rows, tokens.positions - 1].float(), tokens.labels, tokens.rows)


def batches(rows: Sequence[EncodedExample], size: int, *, seed: int) -> Iterator[list[EncodedExample]]:
    """The rows once, shuffled, so many at a time."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    for start in range(0, len(rows), size):
        yield [rows[place] for place in order[start : start + size]]


def _until(answer: Tensor, eos_token_id: int) -> Tensor:
    """The answer up to its EOS, which belongs to it."""
    ends = (answer == eos_token_id).nonzero()
    return answer[: int(ends[0]) + 1] if len(ends) else answer
