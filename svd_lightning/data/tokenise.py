"""Examples and conversations as token ids: the same for training, scoring and the start of generation."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from svd_lightning.data.examples import Example, Message
from svd_lightning.errors import InputError


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
    """The reference completion as the tokenizer read it."""
    prompt_ids: Tensor
    """int64 [P], P ≥ 1: what generation starts from."""
    completion_ids: Tensor
    """int64 [C]: the labels, EOS included unless the completion was cut."""
    task: str | None = None
    """The example's task."""

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)

    def emptied(self) -> "EncodedExample":
        """Return a row of the same tokens in which nothing is scored."""
        ids = torch.cat([self.prompt_ids, self.completion_ids])
        return replace(self, index=-1, completion="", prompt_ids=ids, completion_ids=ids[:0])


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
) -> EncodedSplit:
    """Tokenise a split: the prompt with BOS as the tokenizer sets it, the completion, EOS.

    A completion longer than what `max_length` leaves is cut at its end (and then has no EOS).

    Raises:
        InputError: for prompts that leave no room for one completion token, unless `skip_overlong`; for a
            prompt without tokens, a tokenizer without EOS, or a conversation that cannot be rendered.
    """
    if tokenizer.eos_token_id is None:
        raise InputError("tokenizer.eos_token: expected one to end completions with, got none; set it")
    texts = [_texts(example, tokenizer) for example in examples]
    rows: list[EncodedExample] = []
    overlong: list[tuple[str, int]] = []
    cut = 0
    for example, (prompt, completion), (prompt_ids, completion_ids) in zip(
        examples, texts, _token_ids(examples, texts, tokenizer), strict=True
    ):
        if not prompt_ids:
            raise InputError(
                f"prompt: expected at least one token, got none in example {example.id!r} of the {split} split; "
                "write something in it"
            )
        room = max_length - len(prompt_ids)
        if room < 1:
            overlong.append((example.id, len(prompt_ids)))
            continue
        cut += len(completion_ids) > room
        ids = torch.tensor(prompt_ids + completion_ids[:room])
        parts = ids[: len(prompt_ids)], ids[len(prompt_ids) :]
        rows.append(EncodedExample(len(rows), example.id, prompt, completion, *parts, task=example.task))
    if overlong:
        report_overlong(
            overlong,
            f"of {len(examples)} prompts in the {split} split leave no room for a completion token",
            f"every prompt to be shorter than {max_length} tokens",
            skip=skip_overlong,
        )
    return EncodedSplit(rows, cut, len(overlong))


def _texts(example: Example, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    if example.messages is None:
        return example.prompt, example.completion
    if not tokenizer.chat_template:
        raise InputError(
            f"messages: example {example.id!r} is a conversation, but the tokenizer "
            f"{tokenizer.name_or_path or type(tokenizer).__name__!r} has no chat template; use an "
            "instruction-tuned model's tokenizer, or give `prompt` and `completion`"
        )
    return render(example.messages, example.completion, tokenizer)


def _token_ids(
    examples: Sequence[Example], texts: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerBase
) -> list[tuple[list[int], list[int]]]:
    """Return the ids of prompts and completions; a rendered conversation has its special tokens already."""
    ids: list[tuple[list[int], list[int]]] = [([], [])] * len(examples)
    for special in (True, False):
        chosen = [i for i, example in enumerate(examples) if (example.messages is None) is special]
        prompts = _tokenise([texts[i][0] for i in chosen], tokenizer, special=special)
        joint = _tokenise(["".join(texts[i]) for i in chosen], tokenizer, special=special)
        alone = _tokenise([texts[i][1] for i in chosen], tokenizer, special=False)
        for i, prompt, both, completion in zip(chosen, prompts, joint, alone, strict=True):
            completion = _continuation(prompt, both, completion)
            if completion[-1:] != [tokenizer.eos_token_id]:
                completion = [*completion, tokenizer.eos_token_id]
            ids[i] = prompt, completion
    return ids


def _continuation(prompt: list[int], joint: list[int], alone: list[int]) -> list[int]:
    """Return the ids that prompt and completion tokenised together add to the prompt's ids.

    If a token would span both texts (then the prompt's ids are not a prefix), the completion is tokenised alone.
    Byte-level tokenizers give the same either way; SentencePiece would add a stray `▁`.
    """
    return joint[len(prompt) :] if joint[: len(prompt)] == prompt else alone


def _tokenise(texts: list[str], tokenizer: PreTrainedTokenizerBase, *, special: bool) -> list[list[int]]:
    if not texts:
        return []
    encoded = tokenizer(texts, add_special_tokens=special, return_attention_mask=False, verbose=False)["input_ids"]
    return [_tidy(ids, text, tokenizer) for ids, text in zip(encoded, texts, strict=True)]


def _tidy(ids: list[int], text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Drop the second BOS where the text brought its own, and an EOS that only the tokenizer added."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if bos is not None and ids[:2] == [bos, bos]:
        ids = ids[1:]
    if ids[-1:] == [eos] and eos != bos and not text.rstrip().endswith(tokenizer.eos_token):
        ids = ids[:-1]
    return ids


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


def render(messages: tuple[Message, ...], completion: str, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """Return the text before the assistant's answer, and the text that the answer adds, end of turn included.

    Raises:
        InputError: for a template that fails on these messages, or that changes the earlier turns when the answer
            is added: generation would then start from another prompt than training.
    """
    turns = [{"role": message.role, "content": message.content} for message in messages]
    prompt = _apply(turns, tokenizer, add_generation_prompt=True)
    if not completion:
        return prompt, ""
    whole = _apply([*turns, {"role": "assistant", "content": completion}], tokenizer, add_generation_prompt=False)
    if not whole.startswith(prompt):
        raise InputError(
            "messages: expected a chat template whose text of the whole conversation begins with the text that "
            f"generation starts from (…{prompt[-40:]!r}), got …{whole[-60:]!r}; give `prompt` and `completion` "
            "instead, or a tokenizer with another template"
        )
    answer, eos = whole[len(prompt) :], tokenizer.eos_token
    if eos and eos in answer:  # decoding stops there, whatever the template writes after it
        answer = answer[: answer.rindex(eos) + len(eos)]
    return prompt, answer


def _apply(turns: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, *, add_generation_prompt: bool) -> str:
    # A template is a program, and may raise anything.
    try:
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=add_generation_prompt)
    except Exception as error:
        roles = ", ".join(turn["role"] for turn in turns)
        raise InputError(f"messages: the chat template refuses the roles ({roles}): {error}") from error
