"""The reference distribution of the calibration split, kept as the base's final hidden states."""

import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from svd_lightning.errors import InputError
from svd_lightning.files import replacing
from svd_lightning.objective.state_file import Range, StateFile

_KIND = "svd_lightning reference snapshot"
FORMAT = f"{_KIND} 1"
"""Part of every file's key; the number changes when the meaning of the states does."""

MAX_MEMORY = 2**31
"""Default size, in bytes, up to which the states are kept in CPU memory: 2 GiB."""


class ReferenceSnapshot:
    """The frozen base's final hidden states at the completion positions of each calibration example.

    The reference logits come from them through the frozen LM head, chunk by chunk: exact, and H/V of the
    size of the logits. Taken once, reused at the end of every epoch and, once saved, by later runs.

    Args:
        max_memory: size in bytes up to which the states lie in CPU memory; larger ones lie in a file that is
            read through a memory map, a batch at a time, so that memory does not grow with their number.
        folder: where such a file lies until it is saved; null takes the system's folder for temporary files.
    """

    def __init__(self, *, max_memory: int = MAX_MEMORY, folder: Path | None = None) -> None:
        self.max_memory, self._folder = max_memory, folder
        self._ranges: dict[int, Range] = {}
        self._rows = 0
        self._memory: dict[Range, Tensor] = {}
        self._file: StateFile | None = None
        self._unsaved: weakref.finalize | None = None

    @property
    def num_tokens(self) -> int:
        """N, over all examples."""
        return self._rows

    @property
    def in_memory(self) -> bool:
        """Whether the states lie in CPU memory, not in a file."""
        return self._file is None

    def has(self, examples: Sequence[int]) -> bool:
        """Whether the states of all these examples are known."""
        return all(example in self._ranges for example in examples)

    def put(self, examples: Sequence[int], rows: Tensor, states: Tensor) -> None:
        """Keep a batch: example number of each row, row of each token int64 [N], hidden states [N, H].

        An example that is known already stays as it is; one without tokens (a filler) is known from then on.

        Raises:
            InputError: for new examples of a snapshot in a file that has been saved, or no room for the file.
        """
        places = {example: row for row, example in enumerate(examples) if example not in self._ranges}
        if not places:
            return
        if self._file is not None and self._file.complete:
            raise InputError(f"{self._file.path}: this reference snapshot is complete, got new examples to keep")
        for example, row in places.items():
            chunk = states[rows == row].detach().to("cpu", copy=True)
            place = (self._rows, self._rows + len(chunk))
            self._ranges[example], self._rows = place, place[1]
            self._memory[place] = chunk
        if self._file is not None or self._rows * states.shape[-1] * states.itemsize > self.max_memory:
            self._spill()

    def get(self, examples: Sequence[int]) -> Tensor:
        """The states of these examples one after the other, [N, H], on the CPU.

        Raises:
            InputError: if they lie in a file that has gone or is damaged.
        """
        ranges = [self._ranges[example] for example in examples]
        if self._file is not None:
            return self._file.read(ranges)
        return torch.cat([self._memory[place] for place in ranges])

    def save(self, path: Path, key: Mapping[str, str]) -> None:
        """Write to a safetensors file in one step, with the key that `load` must be given again.

        Raises:
            InputError: if nothing has been kept yet.
        """
        if not self._ranges:
            raise InputError("reference snapshot: expected the states of at least one example, got none")
        with replacing(path) as temporary:
            if self._file is None:
                file = StateFile(temporary)
                file.append(self._memory.values())
                self._finish(file, key)
            elif self._file.complete:
                raise InputError(f"{self._file.path}: this reference snapshot has been saved already")
            else:
                self._finish(self._file, key)
                shutil.move(self._file.path, temporary)
        if self._file is not None:
            self._file.path = path
            if self._unsaved is not None:
                self._unsaved.detach()

    @classmethod
    def load(cls, path: Path, key: Mapping[str, str], *, max_memory: int = MAX_MEMORY) -> "ReferenceSnapshot":
        """Read what `save` wrote; up to `max_memory` bytes into CPU memory, larger ones stay where they are.

        Raises:
            InputError: if the file is missing or damaged, or was saved under another key: names what differs.
        """
        file = StateFile(path)
        _check_key(path, file.metadata(), key)
        examples, counts = file.owners()
        stops = counts.cumsum(0)
        ranges = zip((stops - counts).tolist(), stops.tolist(), strict=True)
        snapshot = cls(max_memory=max_memory, folder=path.parent)
        snapshot._ranges = dict(zip(examples.tolist(), ranges, strict=True))
        snapshot._rows = file.rows
        if path.stat().st_size > max_memory:
            snapshot._file = file
        else:
            chunks = file.read([(0, file.rows)]).split(counts.tolist())
            snapshot._memory = dict(zip(snapshot._ranges.values(), chunks, strict=True))
        return snapshot

    def _finish(self, file: StateFile, key: Mapping[str, str]) -> None:
        counts = [stop - start for start, stop in self._ranges.values()]
        metadata = {**key, "format": FORMAT}
        file.finish(torch.tensor(list(self._ranges)), torch.tensor(counts), metadata)

    def _spill(self) -> None:
        """Move what is in memory behind what is in the file."""
        try:
            self._file = self._file or self._new_file()
            self._file.append(self._memory.values())
        except OSError as error:
            where = self._folder or tempfile.gettempdir()
            raise InputError(
                f"reference snapshot: cannot write to {where}: {error}; make room there, or give another folder"
            ) from error
        self._memory.clear()

    def _new_file(self) -> StateFile:
        """An empty file that goes with this object, unless it is saved before."""
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self._folder, prefix=".snapshot.")
        os.close(handle)
        self._unsaved = weakref.finalize(self, Path(name).unlink, missing_ok=True)
        return StateFile(Path(name))


def _check_key(path: Path, found: Mapping[str, str], key: Mapping[str, str]) -> None:
    expected = {**key, "format": FORMAT}
    if not found.get("format", "").startswith(_KIND):
        raise InputError(f"{path}: expected a reference snapshot, got another or an unfinished file; delete it")
    differing = [name for name, value in expected.items() if found.get(name) != value]
    if differing:
        each = "; ".join(f"{name}: {found.get(name)!r}, expected {expected[name]!r}" for name in differing)
        raise InputError(
            f"{path}: this reference snapshot is of something else ({each}); delete it, or give another folder"
        )
