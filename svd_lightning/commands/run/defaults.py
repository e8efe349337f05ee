"""What `run` chooses by the data, where the user says nothing: splits, lengths, batches, epochs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from svd_lightning.calibration.advice import ENOUGH
from svd_lightning.data import EncodedExample

_SHARES = {"test": (0.15, 400, 4), "validation": (0.1, 100, 10), "calibration": (0.15, 160, 4)}
"""Of each split its share of the examples, the most that it takes, and the part of few examples (1/4, 1/10)."""
_BATCH = 8
"""Examples of a step of the optimizer."""
_TOKENS = 8192
"""The most tokens of a batch."""
_STEPS, _EPOCHS = 60, 3
"""Steps that a warm start should have, and the most passes over the data to reach them."""
_LONGEST = 2048


@dataclass(frozen=True)
class Lengths:
    """How long examples are, in tokens."""

    longest: int
    mean: float
    longest_completion: int
    mean_completion: float
    options: float = 1.0
    """Choices of a question, on average; 1 where there are none."""

    @classmethod
    def of(cls, rows: Sequence[EncodedExample], options: float) -> "Lengths":
        """Measure encoded examples."""
        whole, completions = [len(row) for row in rows], [len(row.completion_ids) for row in rows]
        means = sum(whole) / len(rows), sum(completions) / len(rows)
        return cls(max(whole), means[0], max(completions), means[1], options)


@dataclass(frozen=True)
class Batches:
    """Examples in a batch of training and of evaluation, and batches in a step."""

    rows: int
    accumulate: int
    evaluation: int

    def halved(self) -> "Batches":
        """Return batches of half the memory, with as many examples in a step."""
        return Batches(max(1, self.rows // 2), self.accumulate * min(2, self.rows), max(1, self.evaluation // 2))


def split_sizes(examples: int, *, training: bool) -> dict[str, int]:
    """Return how many examples test, validation and calibration get.

    A share of the examples, at least `ENOUGH` and at most a number beyond which more changes little. Of few
    examples test and calibration get a quarter each, validation a tenth: it decides nothing. Without training the
    calibration gets all that test and validation leave, but one.

    >>> split_sizes(400, training=True), split_sizes(10_000, training=True)
    ({'test': 60, 'validation': 40, 'calibration': 60}, {'test': 400, 'validation': 100, 'calibration': 160})
    >>> split_sizes(48, training=True), split_sizes(200, training=False)
    ({'test': 12, 'validation': 4, 'calibration': 12}, {'test': 30, 'validation': 20, 'calibration': 149})
    """
    sizes = {
        name: max(1, min(most, max(ENOUGH, round(share * examples)), examples // part))
        for name, (share, most, part) in _SHARES.items()
    }
    if not training:
        sizes["calibration"] = max(1, examples - sizes["test"] - sizes["validation"] - 1)
    return sizes


def too_few(sizes: dict[str, int]) -> list[str]:
    """Return the splits that are too small to decide by.

    >>> too_few({"train": 100, "calibration": 40, "test": 12, "validation": 12})
    ['test']
    """
    return [name for name in ("calibration", "test") if sizes.get(name, ENOUGH) < ENOUGH]


def max_length(lengths: Lengths, context: int | None) -> int:
    """Return the most tokens of an example: those of the longest, rounded up, within the context.

    >>> max_length(Lengths(70, 40.0, 30, 20.0), 1024), max_length(Lengths(9000, 40.0, 30, 20.0), None)
    (128, 2048)
    """
    return min(_LONGEST, 64 * math.ceil(lengths.longest / 64), context or _LONGEST)


def max_new_tokens(lengths: Lengths, length: int, context: int | None) -> int:
    """Return the most tokens of a written answer: room for the longest one in the data, within the context.

    >>> max_new_tokens(Lengths(70, 40.0, 30, 20.0), 128, 1024), max_new_tokens(Lengths(70, 40.0, 30, 20.0), 64, 70)
    (64, 6)
    """
    wanted = min(512, 32 * math.ceil(1.25 * lengths.longest_completion / 32))
    return wanted if context is None else max(1, min(wanted, context - length))


def batches(length: int, lengths: Lengths) -> Batches:
    """Return batches of at most so many tokens; in evaluation of as many rows, whatever the options of a question.

    >>> batches(128, Lengths(70, 40.0, 30, 20.0)), batches(2048, Lengths(70, 40.0, 30, 20.0))
    (Batches(rows=8, accumulate=1, evaluation=8), Batches(rows=4, accumulate=2, evaluation=4))
    >>> batches(128, Lengths(70, 40.0, 30, 20.0, options=4.0)).evaluation
    2
    """
    rows = max(1, min(_BATCH, _TOKENS // length))
    return Batches(rows, math.ceil(_BATCH / rows), max(1, int(rows / lengths.options)))


def steps_per_epoch(examples: int, rows: int, accumulate: int) -> int:
    """Return the optimizer's steps in one pass over the data; what is left over at the end is a step too.

    >>> steps_per_epoch(25, 4, 2)
    4
    """
    return math.ceil(math.ceil(examples / rows) / accumulate)


def epochs(steps: int) -> int:
    """Return how many passes make a warm start, given the steps of one.

    >>> epochs(30), epochs(5), epochs(500)
    (2, 3, 1)
    """
    return max(1, min(_EPOCHS, math.ceil(_STEPS / max(1, steps))))


def log_every(steps: int) -> int:
    """Return after how many steps the loss is logged: some fifty times in all.

    >>> log_every(30), log_every(20_000)
    (1, 50)
    """
    return max(1, min(50, steps // 50))
