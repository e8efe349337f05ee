"""Several datasets as one."""

import random
from dataclasses import dataclass, field, replace

from svd_lightning.data.datamodule import CompletionDataModule
from svd_lightning.data.examples import Example
from svd_lightning.data.splits import SplitSizes, limited
from svd_lightning.errors import InputError


@dataclass(kw_only=True, eq=False, repr=False)
class Mixture(CompletionDataModule):
    """Several datasets as one; the `task` of every example and question is its dataset's name.

    Each part is split by itself, by its own sizes, seed and limit. So every task is in every split and keeps its
    test set. Training examples are shuffled together; the other splits hold one task after the
    other. The mixture sets `max_length` and the batch sizes; those of its parts have no effect.
    """

    parts: dict[str, CompletionDataModule] = field(kw_only=False)
    """The datasets by the names of their tasks."""
    weights: dict[str, float] | None = None
    """How many times a task's training examples are taken (0.5: a random half; 2: all of them twice); else 1."""
    calibration: int | float | None = None
    """Calibration split of every task, instead of its own size; null leaves each its own."""
    validation: int | float | None = None
    """Validation split of every task, instead of its own size; null leaves each its own."""
    test: int | float | None = None
    """Test split of every task, instead of its own size; null leaves each its own."""
    seed: int = 0
    """Decides the order of the training examples, and which ones `weights` and `limit` leave out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.parts:
            raise InputError("data.parts: expected at least one dataset under the name of its task, got none")
        for task, weight in (self.weights or {}).items():
            if task not in self.parts:
                raise InputError(f"data.weights: expected names of {', '.join(self.parts)}, got {task!r}")
            if not 0 < weight < float("inf"):
                raise InputError(f"data.weights: expected positive numbers, got {weight} for {task!r}")

    def dataset_names(self) -> set[str]:
        """Return the names of the parts' datasets; none if a part may hold any."""
        names = [part.dataset_names() for part in self.parts.values()]
        return set().union(*names) if all(names) else set()

    def load(self) -> list[Example]:
        """Return the training examples of the parts, before any split is cut."""
        return [_of_task(example, task) for task, part in self.parts.items() for example in part.load()]

    def load_splits(self, sizes: SplitSizes | None = None) -> dict[str, list[Example]]:
        """Return the splits of the parts, joined by name."""
        given = {name: size for name, size in (sizes or self.sizes).in_order().items() if size is not None}
        splits: dict[str, list[Example]] = {}
        for task, part in self.parts.items():
            for name, examples in part.load_splits(replace(part.sizes, **given)).items():
                if name == "train":
                    examples = _repeated(examples, (self.weights or {}).get(task, 1.0), seed=self.seed)
                splits.setdefault(name, []).extend(_of_task(example, task) for example in examples)
        random.Random(self.seed).shuffle(splits["train"])
        return {name: limited(examples, self.limit, seed=self.seed) for name, examples in splits.items()}


def _repeated(examples: list[Example], weight: float, *, seed: int) -> list[Example]:
    """Return the examples `weight` times; copies have ids of their own, and the family of the original."""
    whole = int(weight)
    rest = limited(examples, round((weight - whole) * len(examples)), seed=seed)
    return [
        example if copy == 1 else replace(example, id=f"{example.id}~{copy}", group=example.family)
        for copy, taken in enumerate([*[examples] * whole, rest], start=1)
        for example in taken
    ]


def _of_task(example: Example, task: str) -> Example:
    """Put an example and its question under a task's name; a task that it already has comes after a slash."""
    name = task if example.task is None else f"{task}/{example.task}"
    question = example.question
    return replace(
        example,
        id=f"{task}/{example.id}",
        group=None if example.group is None else f"{task}/{example.group}",
        task=name,
        question=question and replace(question, id=f"{task}/{question.id}", task=name),
    )
