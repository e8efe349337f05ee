"""Answers sampled from a frozen base, and its logits at the labels of a batch."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from svd_lightning.data import Batch, EncodedExample, PredictionCollator, answer_ends
from svd_lightning.scoring.tokens import IGNORED, completion_tokens


class Answers(NamedTuple):
    """The sampled answers to one prompt."""

    ids: list[Tensor]
    """Tokens of each answer with its end, int64."""
    texts: list[str]


class AddVector(LogitsProcessor):
    """Adds a vector [V] to the logits of every step."""

    def __init__(self, vector: Tensor) -> None:
        self.vector = vector

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.float() + self.vector


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
    """Sample answers to each row's prompt from the model's own distribution: temperature 1, nothing cut off.

    Args:
        model: in evaluation mode.
        tokenizer: of the model.
        rows: only their prompts are used.
        samples: per prompt.
        max_new_tokens: where an answer without an end is cut.
        vector: added to the logits, [V].
    """
    batch = PredictionCollator(pad_token_id=tokenizer.pad_token_id)(rows)
    ends = sorted(answer_ends(tokenizer, model.generation_config.eos_token_id))
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
        eos_token_id=ends,
    )
    sequences = model.generate(
        input_ids=batch["input_ids"].to(model.device),
        attention_mask=batch["attention_mask"].to(model.device),
        generation_config=config,
        logits_processor=LogitsProcessorList([] if vector is None else [AddVector(vector)]),
    )
    ids = [_until(answer, ends) for answer in sequences[:, batch["input_ids"].shape[1] :].cpu()]
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    starts = range(0, len(ids), samples)
    return [Answers(ids[start : start + samples], texts[start : start + samples]) for start in starts]


def answered(rows: Sequence[tuple[Tensor, Tensor]], *, pad_token_id: int) -> dict[str, Tensor]:
    """Join prompts with answers to a labelled batch [R, T], padded on the right."""
    ids = [torch.cat(pair) for pair in rows]
    labels = [torch.cat([torch.full_like(prompt, IGNORED), answer]) for prompt, answer in rows]
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad_token_id),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }


class LabelLogits(NamedTuple):
    """A frozen model's logits at the positions that predict a batch's labels."""

    logits: Tensor
    """float32 [N, V]"""
    labels: Tensor
    """int64 [N]"""
    rows: Tensor
    """Row of the batch, int64 [N]"""


@torch.no_grad()
def label_logits(model: PreTrainedModel, batch: Batch) -> LabelLogits:
    """Return the logits that predict the labels of a batch [B, T]; they take B · T · V numbers of memory."""
    batch = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask", "labels")}
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    tokens = completion_tokens(batch)
    return LabelLogits(logits[tokens.rows, tokens.positions - 1].float(), tokens.labels, tokens.rows)


def batches(rows: Sequence[EncodedExample], size: int, *, seed: int) -> Iterator[list[EncodedExample]]:
    """Yield the rows once, shuffled, in batches of this size."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    for start in range(0, len(rows), size):
        yield [rows[place] for place in order[start : start + size]]


def _until(answer: Tensor, ends: list[int]) -> Tensor:
    """Cut an answer after its end."""
    places = torch.isin(answer, torch.tensor(ends)).nonzero()
    return answer[: int(places[0]) + 1] if len(places) else answer
