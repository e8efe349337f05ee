"""A safetensors file of hidden states that grows while it is written, and is read through a memory map."""

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from svd_lightning.errors import InputError

Range = tuple[int, int]
"""Rows [start, stop) of the states."""

_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}
_HEADER = 2**14
"""Room for the header: padded with spaces, it can be rewritten in place as the states grow."""
_BLOCK = 2**22


class StateFile:
    """Hidden states [N, H] in a file that is a valid safetensors file after every `append`.

    No method holds more than the rows it is asked for: the map is closed after each read.

    Args:
        path: where the file is, or will be; an existing one is read only.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self.complete = False
        self._started = False
        self._checksum = 0

    def append(self, chunks: Iterable[Tensor]) -> None:
        """Write chunks of rows, [n, H] each, behind those that are there; all of one dtype and width."""
        assert not self.complete
        for chunk in chunks:
            self._width, self._dtype = chunk.shape[-1], chunk.dtype
            self._write(chunk)
            self.rows += len(chunk)
        self._write_header({})

    def finish(self, examples: Tensor, counts: Tensor, metadata: Mapping[str, str]) -> None:
        """Add whose rows they are (int64 [E] each: example, number of its rows), metadata and a checksum."""
        self._write(examples)
        self._write(counts)
        self._write_header({**metadata, "checksum": f"{self._checksum:08x}"}, examples=len(examples))
        self.complete = True

    def read(self, ranges: Sequence[Range]) -> Tensor:
        """The rows of these ranges one after the other, a copy on the CPU, [n, H].

        Raises:
            InputError: if the file has gone or is damaged.
        """
        with _explained(self.path), safe_open(self.path, framework="pt") as file:
            states = file.get_slice("states")
            parts = [states[start:stop].clone() for start, stop in _joined(ranges)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def metadata(self) -> dict[str, str]:
        """What `finish` was given, and the checksum."""
        with _explained(self.path), safe_open(self.path, framework="pt") as file:
            return file.metadata() or {}

    def owners(self) -> tuple[Tensor, Tensor]:
        """Example numbers and row counts, int64 [E] each, of a finished file whose every byte is as written.

        Raises:
            InputError: if it is not.
        """
        with _explained(self.path), safe_open(self.path, framework="pt") as file:
            self.rows = file.get_slice("states").get_shape()[0]
            examples, counts = (file.get_tensor(name).clone() for name in ("examples", "counts"))
            expected = (file.metadata() or {}).get("checksum")
        if expected != f"{_checksum(self.path):08x}" or int(counts.sum()) != self.rows:
            raise _damaged(self.path, "its checksum does not match")
        self.complete = True
        return examples, counts

    def _write(self, tensor: Tensor) -> None:
        data = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
        with self.path.open("ab" if self._started else "wb") as file:
            if not self._started:
                file.write(b" " * (8 + _HEADER))
            file.write(data)
        self._started = True
        self._checksum = zlib.crc32(data, self._checksum)

    def _write_header(self, metadata: Mapping[str, str], *, examples: int | None = None) -> None:
        size = self._dtype.itemsize * self._width * self.rows
        header = {
            "__metadata__": dict(metadata),
            "states": {
                "dtype": _DTYPES[self._dtype],
                "shape": [self.rows, self._width],
                "data_offsets": [0, size],
            },
        }
        if examples is not None:
            for place, name in enumerate(("examples", "counts")):
                start = size + place * 8 * examples
                header[name] = {
                    "dtype": "I64",
                    "shape": [examples],
                    "data_offsets": [start, start + 8 * examples],
                }
        text = json.dumps(header).encode()
        assert len(text) <= _HEADER, "the metadata do not fit into the header"
        with self.path.open("rb+") as file:
            file.write(_HEADER.to_bytes(8, "little") + text.ljust(_HEADER))


def _joined(ranges: Sequence[Range]) -> list[Range]:
    """The same rows in as few ranges as possible, at least one."""
    joined = [ranges[0]]
    for start, stop in ranges[1:]:
        if start == joined[-1][1]:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return joined


def _checksum(path: Path) -> int:
    """CRC-32 of everything behind the header, read in blocks."""
    with path.open("rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        found = 0
        while block := file.read(_BLOCK):
            found = zlib.crc32(block, found)
    return found


class _explained:
    """Turn what a missing or damaged file raises into one line that names it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (SafetensorError, OSError, KeyError)):
            raise _damaged(self._path, str(error).splitlines()[0] if str(error) else kind) from error


def _damaged(path: Path, reason: object) -> InputError:
    return InputError(f"{path}: expected a whole reference snapshot, got a damaged file ({reason}); delete it")
