"""The splits train, calibration, validation, test, predict: seeded and disjoint; a group stays together."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from lightning.pytorch.utilities import rank_zero_warn

from svd_lightning.data.examples import Example
from svd_lightning.errors import InputError

Size = int | float | None
"""A count, a fraction in (0, 1), or None for nothing."""


@dataclass(frozen=True, kw_only=True)
class SplitSizes:
    """How much to cut from the training data: test, validation, calibration, each from what is left."""

    test: Size = None
    validation: Size = None
    calibration: Size = None

    def __post_init__(self) -> None:
        for name, size in self.in_order().items():
            fraction = isinstance(size, float) and 0.0 <= size < 1.0
            count = isinstance(size, int) and not isinstance(size, bool) and size >= 0
            if not (size is None or fraction or count):
                raise InputError(
                    f"data.{name}: expected a count (a whole number), a fraction in (0, 1), or null for no such "
                    f"split, got {size!r}"
                )

    def in_order(self) -> dict[str, Size]:
        """Return the sizes in the order of cutting: a change of one leaves the splits before it as they are."""
        return {"test": self.test, "validation": self.validation, "calibration": self.calibration}


def make_splits(
    train: Sequence[Example],
    given: Mapping[str, Sequence[Example]],
    *,
    sizes: SplitSizes,
    seed: int = 0,
    limit: int | None = None,
) -> dict[str, list[Example]]:
    """Return all splits by name: those `given`, and the others cut from `train`.

    If `predict` is not given, it is the test split, one example per group. `limit` is the most examples of each
    split; an example is in the same split as without a limit.

    Raises:
        InputError: for an id that occurs twice in a dataset or in two splits, or a size that leaves nothing.
    """
    for name, examples in {"train": train, **given}.items():
        check_unique_ids(examples, split=name)
    splits = {"train": list(train)}
    for name, size in sizes.in_order().items():
        if name in given:
            splits[name] = list(given[name])
        else:
            splits["train"], splits[name] = cut(splits["train"], size, name=name, seed=seed)
    splits["predict"] = list(given["predict"]) if "predict" in given else _one_per_group(splits["test"])
    check_disjoint(splits)
    _warn_repeated_texts(splits["train"], splits["calibration"])
    return {name: limited(examples, limit, seed=seed) for name, examples in splits.items()}


def cut(
    examples: Sequence[Example], size: Size, *, name: str, seed: int = 0
) -> tuple[list[Example], list[Example]]:
    """Return what stays and what is cut off, both in their old order; a count counts groups, a fraction rounds up.

    Groups are drawn by a hash of seed, split and group: neither another order of the data nor a few more rows
    move an example from one part to the other.

    >>> rows = [Example(str(i), "p", "c") for i in range(5)]
    >>> [[row.id for row in part] for part in cut(rows, 2, name="test", seed=1)]
    [['0', '1', '3'], ['2', '4']]
    """
    families = {example.family for example in examples}
    # Rounded first: 0.07 · 100 is 7.000000000000001 in floating point.
    count = math.ceil(round(size * len(families), 9)) if isinstance(size, float) else (size or 0)
    if count and count >= len(families):
        raise InputError(
            f"data.{name}: expected a size that leaves some of the {len(families)} examples for training, "
            f"got {size}; ask for less, or give the {name} split as a file of its own"
        )
    chosen = set(_drawn(families, seed=seed, name=name)[:count])
    kept = [example for example in examples if example.family not in chosen]
    return kept, [example for example in examples if example.family in chosen]


def check_unique_ids(examples: Sequence[Example], *, split: str) -> None:
    """Refuse an id that two examples share: predictions could not be told apart."""
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise InputError(
                f"id: expected a different one for each example of {split}, got {example.id!r} twice; name "
                "another column in data.id_column, or one that is not there: rows are named by file and line then"
            )
        seen.add(example.id)


def check_disjoint(splits: Mapping[str, Sequence[Example]]) -> None:
    """Refuse an example that is in two splits; only `predict` may look at any of them."""
    ids = {name: {example.id for example in rows} for name, rows in splits.items() if name != "predict"}
    for one, other in combinations(ids, 2):
        if shared := sorted(ids[one] & ids[other]):
            raise InputError(
                f"data: expected splits without a common example, got {len(shared)} in both {one} and {other} "
                f"(first id {shared[0]!r}); take them out of one, or let {other} be cut from the training data"
            )


def _warn_repeated_texts(train: Sequence[Example], calibration: Sequence[Example]) -> None:
    trained = {(example.prompt, example.completion): example.id for example in train}
    repeated = [example for example in calibration if (example.prompt, example.completion) in trained]
    if repeated:
        first = repeated[0]
        rank_zero_warn(
            f"{len(repeated)} of {len(calibration)} calibration examples have the same text as one in train, "
            f"under another id (first: {first.id!r} is {trained[first.prompt, first.completion]!r}): the strength "
            "is then fitted on what the adapter has seen; remove the duplicates"
        )


def _one_per_group(examples: Sequence[Example]) -> list[Example]:
    firsts: dict[str, Example] = {}
    for example in examples:
        firsts.setdefault(example.family, example)
    return list(firsts.values())


def limited(examples: list[Example], limit: int | None, *, seed: int) -> list[Example]:
    """Return at most `limit` of the examples, drawn like the splits, in their old order."""
    if limit is None or limit >= len(examples):
        return examples
    chosen = set(_drawn({example.id for example in examples}, seed=seed, name="limit")[:limit])
    return [example for example in examples if example.id in chosen]


def _drawn(names: set[str], *, seed: int, name: str) -> list[str]:
    """Sort names in an order that depends on seed and purpose alone."""
    return sorted(names, key=lambda each: hashlib.sha256(f"{seed}\0{name}\0{each}".encode()).digest())
