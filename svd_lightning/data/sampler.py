"""Which rows a process gets, and when: shuffled by length for training, shares of equal size in order."""

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler


class Row(Protocol):
    """A row that can be repeated without a second score."""

    def __len__(self) -> int:
        """Return its length in tokens."""

    def emptied(self: "RowT") -> "RowT":
        """Return a copy without labels, of index −1."""


RowT = TypeVar("RowT", bound=Row)


class LengthGroupedSampler(DistributedSampler[int]):
    """Shuffles rows so that a batch holds rows of similar length, on every rank at once.

    Rows are shuffled and cut into windows, and sorted by length within a window; then the batches are shuffled,
    except two: the one with the longest row comes first, so that running out of memory shows at once, and the one
    that is not full comes last. The order depends on seed and epoch alone.

    It is a `DistributedSampler` because Lightning wraps every other sampler of a distributed fit in one that
    shuffles row by row, which undoes the grouping (and transformers' `LengthGroupedSampler` takes no epoch).

    If N rows do not divide evenly over the ranks, indices from N on fill the end of the last batch; they are for
    rows without labels (see `padded_to_ranks`). So batches are those of one process, and no row counts twice.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        batch_size: int,
        num_replicas: int = 1,
        rank: int = 0,
        seed: int = 0,
        window: int = 50,
    ) -> None:
        super().__init__(range(len(lengths)), num_replicas=num_replicas, rank=rank, seed=seed)  # type: ignore[arg-type]
        self.lengths = torch.as_tensor(lengths)
        self.global_batch = batch_size * num_replicas
        self.window = window

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator)
        full = len(order) - len(order) % self.global_batch
        batches = self._grouped(order[:full]).view(-1, self.global_batch)
        if len(batches):
            batches = self._longest_first(batches[torch.randperm(len(batches), generator=generator)])
        beyond = torch.arange(len(order), self.total_size)  # ranks need shares of one size
        mine = torch.cat([batches.flatten(), order[full:], beyond])[self.rank :: self.num_replicas]
        return iter(mine.tolist())

    def _grouped(self, order: Tensor) -> Tensor:
        windows = order.split(self.window * self.global_batch)
        return torch.cat([rows[self.lengths[rows].argsort(stable=True)] for rows in windows])

    def _longest_first(self, batches: Tensor) -> Tensor:
        longest = int(self.lengths[batches].amax(dim=1).argmax())
        return torch.cat([batches[longest : longest + 1], batches[:longest], batches[longest + 1 :]])


def batched_by_length(rows: Sequence[RowT], size: int) -> list[RowT]:
    """Order rows so that batches hold rows of similar length: those of a batch stand together.

    Batches come in the order of their first rows; one that is not full comes last.

    >>> batched_by_length(["ccc", "a", "bb", "a", "dddd"], 2)
    ['ccc', 'bb', 'a', 'a', 'dddd']
    """
    order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
    batches = [sorted(order[start : start + size]) for start in range(0, len(order), size)]
    batches.sort(key=lambda batch: (len(batch) < size, batch))
    return [rows[number] for batch in batches for number in batch]


def padded_to_ranks(rows: Sequence[RowT], num_replicas: int) -> list[RowT]:
    """Append rows without labels until every process gets the same number."""
    return [*rows, *[rows[0].emptied()] * (-len(rows) % num_replicas)]


class EvenShare(Dataset[RowT]):
    """One rank's share of the rows, in order; all shares have one size, and no row counts twice.

    Sharded models need every rank to run the same number of batches. If the rows do not divide evenly, the last
    shares end with a copy of the first row without labels, of index −1.
    """

    def __init__(self, rows: Sequence[RowT], *, num_replicas: int = 1, rank: int = 0) -> None:
        self.rows = rows[rank::num_replicas]
        self.size = -(-len(rows) // num_replicas)
        self.filler = rows[0].emptied()

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> RowT:
        if not 0 <= index < self.size:
            raise IndexError(index)
        return self.rows[index] if index < len(self.rows) else self.filler
