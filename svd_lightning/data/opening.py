"""The words with which nearly all completions begin."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from svd_lightning.data.tokenise import EncodedExample


def opening(completions: Sequence[Tensor], share: float) -> Tensor:
    """Return the longest run of tokens with which at least this share of the completions begin, int64 [k].

    At least one token of a completion comes after it: one of a single token, such as EOS, opens with nothing.

    Args:
        completions: token ids, [C] each.
        share: in (0, 1].

    >>> answers = [torch.tensor(ids) for ids in ([5, 6, 1, 0], [5, 6, 2, 0], [5, 6, 3, 0], [7, 0])]
    >>> opening(answers, 0.75), opening(answers, 0.8)
    (tensor([5, 6]), tensor([], dtype=torch.int64))
    """
    found: list[int] = []
    left = [ids.tolist() for ids in completions]
    while left := [ids for ids in left if len(ids) > len(found) + 1 and ids[: len(found)] == found]:
        token, count = Counter(ids[len(found)] for ids in left).most_common(1)[0]
        if count < share * len(completions):
            break
        found.append(token)
    return torch.tensor(found, dtype=torch.int64)


def without_opening(rows: Sequence[EncodedExample], share: float) -> list[EncodedExample]:
    """Return the rows with the `opening` of their completions moved into the prompt, so that it is not scored.

    Completions that begin otherwise stay as they are.
    """
    start = opening([row.completion_ids for row in rows], share)
    return [_after(row, start) if _begins(row, start) else row for row in rows]


def _begins(row: EncodedExample, start: Tensor) -> bool:
    return len(row.completion_ids) > len(start) and torch.equal(row.completion_ids[: len(start)], start)


def _after(row: EncodedExample, start: Tensor) -> EncodedExample:
    prompt, completion = torch.cat([row.prompt_ids, start]), row.completion_ids[len(start) :]
    return replace(row, prompt_ids=prompt, completion_ids=completion)
