"""Examples and conversations as token ids: the same for training, scoring and the start of generation."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from svd_lightning.data.chat import Rendered, Renderer, alike
from svd_lightning.data.control_tokens import ControlTokens, answer_ends
from svd_lightning.data.examples import Example
from svd_lightning.errors import InputError

IGNORED = -100
"""The label that PyTorch's cross entropy leaves out."""
UNLIMITED = 2**31
"""A number of tokens that nothing reaches."""

Span: TypeAlias = tuple[int, int]
"""Places of tokens, from the first to before the second."""


@dataclass(frozen=True, eq=False)
class EncodedExample:
    """One row of a split."""

    index: int
    """The row's number within its split."""
    id: str
    """The example's id."""
    prompt: str
    """The prompt as the tokenizer read it: rendered, for a conversation."""
    completion: str
    """The reference completion as text, without control tokens."""
    prompt_ids: Tensor
    """int64 [P], P ≥ 1: what generation starts from."""
    completion_ids: Tensor
    """int64 [C]: labels, the end (EOS, or what ends a turn) included unless the completion was cut."""
    task: str | None = None
    """The example's task."""
    earlier: tuple[Span, ...] = ()
    """Places in the prompt that are labels too: earlier answers of a conversation, each with its end."""

    @property
    def spans(self) -> tuple[Span, ...]:
        """Places of all labels in prompt and completion."""
        return *self.earlier, (len(self.prompt_ids), len(self))

    @property
    def labels(self) -> Tensor:
        """The ids that are labels, int64 [P + C]; −100 elsewhere."""
        ids = torch.cat([self.prompt_ids, self.completion_ids])
        labels = torch.full_like(ids, IGNORED)
        for start, end in self.spans:
            labels[start:end] = ids[start:end]
        return labels

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)

    def emptied(self) -> "EncodedExample":
        """Return a row of the same tokens in which nothing is scored."""
        ids = torch.cat([self.prompt_ids, self.completion_ids])
        return replace(self, index=-1, completion="", prompt_ids=ids, completion_ids=ids[:0], earlier=())


@dataclass(frozen=True)
class EncodedSplit:
    """The rows of a split, and how many examples did not fit."""

    rows: list[EncodedExample]
    """In the order of the dataset."""
    cut: int
    """How many completions lost their end to `max_length`."""
    dropped: int
    """How many examples were left out, because their prompt leaves no room for a completion."""


def encode(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    *,
    split: str,
    max_length: int,
    skip_overlong: bool = False,
    ends: Iterable[int] | None = None,
    parse_control_tokens: bool = False,
) -> EncodedSplit:
    """Tokenise a split: the prompt with BOS as the tokenizer sets it, the completion, its end.

    The end is the one that the chat template writes, or EOS. A completion longer than what `max_length` leaves is
    cut (and then has no end).

    Args:
        examples: of the split.
        tokenizer: of the model.
        split: its name.
        max_length: the most tokens of prompt and completion.
        skip_overlong: drop prompts that leave no room, with a warning, instead of refusing them.
        ends: ids of the tokens that end an answer; None takes those of `answer_ends`.
        parse_control_tokens: read control tokens in the texts of users as such.

    Raises:
        InputError: for prompts that leave no room for one completion token, unless `skip_overlong`; for a
            prompt without tokens, a tokenizer without EOS, or a conversation that cannot be rendered.
    """
    if tokenizer.eos_token_id is None:
        raise InputError("tokenizer.eos_token: expected one to end completions with, got none; set it")
    ends = answer_ends(tokenizer) if ends is None else {*ends, tokenizer.eos_token_id}
    controls = ControlTokens(tokenizer, ends, parse=parse_control_tokens)
    texts = _rendered(examples, controls)
    _warn_control_tokens(examples, controls, split)
    rows: list[EncodedExample] = []
    overlong: list[tuple[str, int]] = []
    cut = 0
    for example, text, (prompt_ids, completion_ids, earlier) in zip(
        examples, texts, _token_ids(examples, texts, controls), strict=True
    ):
        if not prompt_ids:
            raise InputError(
                f"prompt: expected at least one token, got none in {example.place} of the {split} split; "
                "write something in it"
            )
        room = max_length - len(prompt_ids)
        if room < 1:
            overlong.append((example.id, len(prompt_ids)))
            continue
        cut += len(completion_ids) > room
        ids = torch.tensor(prompt_ids + completion_ids[:room])
        rows.append(
            EncodedExample(
                len(rows),
                example.id,
                controls.shown(text.prompt, rendered=text.chat),
                controls.plain(text.answer, rendered=text.chat),
                ids[: len(prompt_ids)],
                ids[len(prompt_ids) :],
                task=example.task,
                earlier=earlier,
            )
        )
    if overlong:
        report_overlong(
            overlong,
            f"of {len(examples)} prompts in the {split} split leave no room for a completion token",
            f"every prompt to be shorter than {max_length} tokens",
            skip=skip_overlong,
        )
    return EncodedSplit(rows, cut, len(overlong))


def _rendered(examples: Sequence[Example], controls: ControlTokens) -> list[Rendered]:
    renderer, texts = Renderer(controls), []
    for example in examples:
        with _at(example):
            text = renderer.render(example)
            if controls.written(f"{example.prompt}{example.completion}"):
                controls.check(text.prompt + text.answer, rendered=text.chat)
        texts.append(text)
    return texts


def _warn_control_tokens(examples: Sequence[Example], controls: ControlTokens, split: str) -> None:
    """Say how many examples hold control tokens that are read as text."""
    found = [(one, controls.written(f"{one.prompt}{one.completion}")) for one in examples]
    held = [(one, name) for one, name in found if name is not None]
    if held:
        example, name = held[0]
        rank_zero_warn(
            f"{len(held)} of {len(examples)} examples in the {split} split hold control tokens of the tokenizer, "
            f"such as {name!r} in {example.place}, which are read as text; if they are meant, set "
            "`data.parse_control_tokens: true`"
        )


def _token_ids(
    examples: Sequence[Example], texts: Sequence[Rendered], controls: ControlTokens
) -> list[tuple[list[int], list[int], tuple[Span, ...]]]:
    """Return the ids of prompts and completions, and the earlier answers' spans in the prompts.

    A rendered conversation has its special tokens already.
    """
    ids: list[tuple[list[int], list[int], tuple[Span, ...]]] = [([], [], ())] * len(texts)
    unended = 0
    for chat in (False, True):
        chosen = [i for i, text in enumerate(texts) if text.chat is chat]
        prompts = controls.ids([texts[i].prompt for i in chosen], special=not chat, rendered=chat)
        joint = controls.ids([texts[i].prompt + texts[i].answer for i in chosen], special=not chat, rendered=chat)
        alone = controls.ids([texts[i].answer for i in chosen], special=False, rendered=chat)
        parts = [part for i in chosen for pair in texts[i].earlier for part in pair]
        borders = iter(controls.ids(parts, special=False, rendered=chat))
        for i, prompt, both, completion in zip(chosen, prompts, joint, alone, strict=True):
            completion = _continuation(prompt, both, completion)
            if not completion or completion[-1] not in controls.ends:
                completion = [*completion, controls.tokenizer.eos_token_id]
            spans = [_answer_span(prompt, next(borders), next(borders), controls.ends) for _ in texts[i].earlier]
            ids[i] = prompt, completion, tuple(span for span in spans if span is not None)
            unended += None in spans
    if unended:
        rank_zero_warn(
            f"{unended} of {len(texts)} conversations hold earlier answers that the chat template does not end by "
            "the token that ends the last one: these are not learned"
        )
    return ids


def _answer_span(prompt: list[int], before: list[int], until: list[int], ends: Collection[int]) -> Span | None:
    """Return where in a prompt an earlier answer stands, its end included; None where it has no end.

    Args:
        prompt: the ids.
        before, until: ids of the texts before the answer, and before what the next message says. A token that
            spans the answer's beginning is no label: generation could not have written it.
        ends: the ids that end an answer.
    """
    same = alike(prompt, before)
    start = same if same == len(before) else same + 1
    end = next((k for k in range(start, alike(prompt, until)) if prompt[k] in ends), None)
    return None if end is None else (start, end + 1)


@contextmanager
def _at(example: Example) -> Iterator[None]:
    """Name the example in errors."""
    try:
        yield
    except InputError as error:
        raise error if example.place in str(error) else InputError(f"{example.place}: {error}") from error


def _continuation(prompt: list[int], joint: list[int], alone: list[int]) -> list[int]:
    """Return the ids that prompt and completion tokenised together add to the prompt's ids.

    If a token would span both texts (then the prompt's ids are not a prefix), the completion is tokenised alone.
    Byte-level tokenizers give the same either way; SentencePiece would add a stray `▁`.
    """
    return joint[len(prompt) :] if joint[: len(prompt)] == prompt else alone


def check_vocabulary(rows: Iterable[EncodedExample], tokenizer: PreTrainedTokenizerBase, size: int) -> None:
    """Raise InputError for a token without an embedding, in the rows or as the one that pads them."""
    padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    found = [(padding, "pads batches")]
    for row in rows:
        highest = int(torch.cat([row.prompt_ids, row.completion_ids]).max())
        found.append((highest, f"stands in example {row.id!r}"))
    highest, where = max(found, key=lambda each: each[0])
    if highest >= size:
        raise InputError(
            f"backbone.tokenizer: expected ids below {size}, the number of the base's embeddings, got {highest} "
            f"({tokenizer.convert_ids_to_tokens(highest)!r}), which {where}; give the tokenizer of this base"
        )


def report_overlong(overlong: Sequence[tuple[str, int]], problem: str, expected: str, *, skip: bool) -> None:
    """Refuse examples (ids and lengths) that are too long, or warn that they are dropped."""
    first = ", ".join(f"{name} ({length} tokens)" for name, length in overlong[:3])
    found = f"{len(overlong)} {problem}: {first}{', …' if len(overlong) > 3 else ''}"
    if not skip:
        raise InputError(
            f"data.max_length: expected {expected}, but {found}; raise `max_length` (up to the model's context), "
            "or set `skip_overlong: true` to drop them"
        )
    rank_zero_warn(f"data.skip_overlong: dropped, since {found}")
