"""The base's distribution on the calibration split, kept as its final hidden states."""

import json
import os
import shutil
import tempfile
import weakref
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import accumulate, groupby, pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from typing_extensions import TypedDict

from svd_lightning.errors import InputError, explained
from svd_lightning.files import replacing_folder, write_text, writing

_KIND = "svd_lightning reference snapshot"
FORMAT = f"{_KIND} 2"
"""Part of every index; the number changes when the files or the meaning of the states do."""

INDEX = "index.json"

REMEDY = "; delete it, or give another folder"
"""Ends every message about a snapshot that cannot be used."""

MAX_MEMORY = 2**31
"""Default size, in bytes, up to which the states are kept in CPU memory: 2 GiB."""

MAX_SHARD = 2**28
"""Size, in bytes, that a file of states does not exceed, unless one example does: 256 MiB."""

_BLOCK = 2**22


class ShardRecord(TypedDict):
    """A file of a reference snapshot: its CRC-32, and the examples whose states follow each other in it."""

    file: str
    checksum: str
    examples: list[int]
    counts: list[int]
    """Rows of each example."""


class SnapshotRecord(TypedDict):
    """`index.json` of a reference snapshot."""

    format: str
    key: dict[str, str]
    """What the states depend on, by name."""
    shards: list[ShardRecord]
    checksum: str
    """CRC-32 of the rest."""


class ReferenceSnapshot:
    """The frozen base's final hidden states at the completion positions of each calibration example.

    The frozen LM head turns them into the base's exact logits, chunk by chunk; they take H/V of the logits' size.
    They are computed once and used at the end of every epoch, and by later runs once they are saved.

    Args:
        max_memory: size in bytes up to which the states stay in CPU memory; beyond it they move to files that are
            read a batch at a time, so that memory does not grow with their number.
        folder: where these files are until they are saved; None takes the system's folder for temporary files.
    """

    def __init__(self, *, max_memory: int = MAX_MEMORY, folder: Path | None = None) -> None:
        self.max_memory, self._parent = max_memory, folder
        self._memory: dict[int, Tensor] = {}
        self._size = 0
        self._places: dict[int, _Place] = {}
        self._shards: list[ShardRecord] = []
        self._folder: Path | None = None
        self._unsaved: weakref.finalize | None = None
        self._complete = False

    def has(self, examples: Sequence[int]) -> bool:
        """Return whether the states of all these examples are kept."""
        return all(example in self._memory or example in self._places for example in examples)

    def put(self, examples: Sequence[int], rows: Tensor, states: Tensor) -> None:
        """Keep a batch: example number of each row, row of each token int64 [N], hidden states [N, H].

        An example that has states already keeps them; one without tokens (a filler) counts as kept too.

        Raises:
            InputError: for new examples of a snapshot in files that has been saved.
            DiskError: if there is no room for the files.
        """
        new = {example: row for row, example in enumerate(examples) if not self.has([example])}
        if new and self._complete:
            raise InputError(f"{self._folder}: this reference snapshot is complete, got new examples to keep")
        for example, row in new.items():
            self._memory[example] = chunk = states[rows == row].detach().to("cpu", copy=True)
            self._size += chunk.nbytes
        if self._size > self.max_memory:
            self._spill()

    def get(self, examples: Sequence[int]) -> Tensor:
        """Return the states of these examples one after the other, [N, H], on the CPU.

        Raises:
            InputError: if their files are missing or damaged.
        """
        parts: list[Tensor] = []
        for in_memory, group in groupby(examples, key=self._memory.__contains__):
            if in_memory:
                parts += [self._memory[example] for example in group]
            else:
                assert self._folder is not None
                parts += _read(self._folder, [self._places[example] for example in group])
        return torch.cat(parts)

    def save(self, path: Path, key: Mapping[str, str]) -> None:
        """Write to a folder in one step, with the key that `load` must be given again.

        Raises:
            InputError: if nothing has been kept yet, or files have been saved already.
        """
        if not self._memory and not self._places:
            raise InputError("reference snapshot: expected the states of at least one example, got none")
        if self._complete:
            raise InputError(f"{self._folder}: this reference snapshot has been saved already")
        with replacing_folder(path) as new:
            for shard in self._shards:
                assert self._folder is not None
                _link(self._folder / shard["file"], new / shard["file"])
            shards = [*self._shards, *_write(self._memory, new, len(self._shards))]
            index = SnapshotRecord(format=FORMAT, key=dict(key), shards=shards, checksum="")
            index["checksum"] = _index_checksum(index)
            write_text(new / INDEX, json.dumps(index))
        if self._unsaved is not None:
            self._unsaved()
            self._folder, self._complete = path, True

    @classmethod
    def load(cls, path: Path, key: Mapping[str, str], *, max_memory: int = MAX_MEMORY) -> "ReferenceSnapshot":
        """Read what `save` wrote: up to `max_memory` bytes into CPU memory; larger snapshots stay in their files.

        Raises:
            InputError: if a file is missing or damaged, or the key differs; the message names the differences.
        """
        shards = _read_index(path, key)["shards"]
        snapshot = cls(max_memory=max_memory, folder=path.parent)
        snapshot._folder, snapshot._places = path, _places(shards)
        with _reading(path):
            sound = all(_checksum(path / shard["file"]) == shard["checksum"] for shard in shards)
            size = sum((path / shard["file"]).stat().st_size for shard in shards)
        if not sound:
            raise _damaged(path, "a checksum does not match")
        snapshot._complete = size > max_memory
        if not snapshot._complete:
            chunks = _read(path, list(snapshot._places.values()))
            snapshot._memory = dict(zip(snapshot._places, chunks, strict=True))
            snapshot._size, snapshot._places = size, {}
        return snapshot

    def _spill(self) -> None:
        """Move what is in memory to files, which go with this object unless it is saved."""
        where = self._parent or Path(tempfile.gettempdir())
        with writing(where, good="checkpoints are whole"):
            if self._folder is None:
                where.mkdir(parents=True, exist_ok=True)
                self._folder = Path(tempfile.mkdtemp(dir=where, prefix=".snapshot."))
                self._unsaved = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
            shards = _write(self._memory, self._folder, len(self._shards))
        self._shards += shards
        self._places |= _places(shards)
        self._memory, self._size = {}, 0


class _Place(NamedTuple):
    """Rows [start, stop) of a shard."""

    file: str
    start: int
    stop: int


def _places(shards: Sequence[ShardRecord]) -> dict[int, _Place]:
    return {
        example: _Place(shard["file"], start, stop)
        for shard in shards
        for example, (start, stop) in zip(
            shard["examples"], pairwise(accumulate(shard["counts"], initial=0)), strict=True
        )
    }


def _read(folder: Path, places: Sequence[_Place]) -> list[Tensor]:
    """Return a copy of the rows at each place; a shard is mapped no longer than it takes to copy them."""
    parts = []
    for name, group in groupby(places, key=lambda place: place.file):
        with _reading(folder), safe_open(folder / name, framework="pt") as file:
            states = file.get_slice("states")
            parts += [states[place.start : place.stop].clone() for place in group]
    return parts


def _write(states: Mapping[int, Tensor], folder: Path, first: int) -> list[ShardRecord]:
    """Write the states of each example into as many shards as they need, numbered from `first`."""
    shards = []
    for number, group in enumerate(_groups(states), first):
        path = folder / f"states-{number:05}.safetensors"
        chunks = [states[example] for example in group]
        save_file({"states": torch.cat(chunks)}, path)
        counts = [len(chunk) for chunk in chunks]
        shards.append(ShardRecord(file=path.name, checksum=_checksum(path), examples=group, counts=counts))
    return shards


def _groups(states: Mapping[int, Tensor]) -> Iterator[list[int]]:
    """Yield the examples of one shard after the other."""
    group: list[int] = []
    size = 0
    for example, chunk in states.items():
        if group and size + chunk.nbytes > MAX_SHARD:
            yield group
            group, size = [], 0
        group.append(example)
        size += chunk.nbytes
    if group:
        yield group


def _read_index(path: Path, key: Mapping[str, str]) -> SnapshotRecord:
    """Return the index of a snapshot, or raise InputError unless it is whole and has the same key."""
    with _reading(path):
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
        kind = index["format"]
    if not str(kind).startswith(_KIND):
        raise InputError(f"{path}: expected a reference snapshot, got something else{REMEDY}")
    if index.get("checksum") != _index_checksum(index):
        raise _damaged(path, "the checksum of its index does not match")
    found, expected = {**index["key"], "format": kind}, {**key, "format": FORMAT}
    differing = [name for name, value in expected.items() if found.get(name) != value]
    if differing:
        each = "; ".join(f"{name}: {found.get(name)!r}, expected {expected[name]!r}" for name in differing)
        raise InputError(f"{path}: this reference snapshot is of something else ({each}){REMEDY}")
    return index


def _index_checksum(index: SnapshotRecord) -> str:
    """Return the CRC-32 of everything in the index but its own checksum."""
    return f"{zlib.crc32(json.dumps({**index, 'checksum': ''}, sort_keys=True).encode()):08x}"


def _checksum(path: Path) -> str:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
    return f"{checksum:08x}"


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system cannot."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _reading(folder: Path) -> AbstractContextManager[None]:
    """Turn what a missing or damaged file raises into one line that names the snapshot."""
    unreadable = (SafetensorError, OSError, KeyError, TypeError, ValueError)
    return explained(unreadable, lambda reason: str(_damaged(folder, reason)))


def _damaged(folder: Path, reason: str) -> InputError:
    return InputError(f"{folder}: expected a whole reference snapshot, got a damaged one ({reason}){REMEDY}")
