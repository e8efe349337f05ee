"""Write files so that a half-written one never replaces a good one; JSON with infinities."""

import errno
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from svd_lightning.errors import DiskError

_REMEDY = "make room there or get the right to write, or choose another folder"
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_RIGHT = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}
_RUST = re.compile(r"(?P<reason>[^:]*) \(os error \d+\)")
"""Finds the reason in what safetensors and tokenizers raise, which is no OSError."""


@contextmanager
def writing(path: Path, *, good: str | None = None) -> Iterator[None]:
    """Within it, a full disk or missing rights become a `DiskError` of one line.

    Args:
        path: what is written.
        good: says what is still whole; None for what stood at the path before.
    """
    try:
        yield
    except DiskError:
        raise
    except Exception as error:
        if (reason := _reason(error)) is None:
            raise
        good = good or ("the one before is whole" if os.path.exists(path) else "there was none before")
        raise DiskError(f"{path}: cannot write it: {reason}; {good}; {_REMEDY}") from error


def disk_trouble(error: BaseException) -> str | None:
    """Return the line to print for an error that a full or read-only disk is behind, else None.

    Loggers and libraries wrap such errors in others, and may meet the same trouble again while the run ends.
    """
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for found in chain:
        if isinstance(found, DiskError):
            return str(found)
    for found in chain:
        if isinstance(found, OSError) and found.errno in _NO_ROOM | _NO_RIGHT:
            where = found.filename or "disk"
            return f"{where}: {os.strerror(found.errno)}; what the run wrote before is whole; {_REMEDY}"
    return None


def _reason(error: Exception) -> str | None:
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    found = _RUST.search(str(error))
    return None if found is None else found["reason"].strip()


@contextmanager
def replacing(path: Path, *, good: str | None = None) -> Iterator[Path]:
    """Give a new file to write to, then flush it to disk and move it to `path` in one step.

    If the body raises, `path` stays as it was and the new file is deleted.

    Raises:
        DiskError: on a full disk, or without the right to write there.
    """
    with writing(path, good=good):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            # mkstemp makes the file private; give it what the user's umask allows
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give a new folder to fill, then move it to `path` and delete what was there.

    If the body raises, `path` stays as it was and the new folder is deleted.

    Raises:
        DiskError: on a full disk, or without the right to write there.
    """
    with writing(path), _folder_beside(path) as name:
        new, old = Path(name) / "new", Path(name) / "old"
        new.mkdir()
        yield new
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(new, path)
        except BaseException:
            if old.exists():
                os.replace(old, path)
            raise


def _folder_beside(path: Path) -> tempfile.TemporaryDirectory[str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.")


def write_text(path: Path, text: str) -> None:
    """Replace a file by this text in one step; a failure leaves the old file."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write strict JSON: infinities as the strings "inf" and "-inf", which `float` reads back."""
    write_text(path, json.dumps(strict(content), indent=2, allow_nan=False) + "\n")


def parse_json(text: str) -> Any:
    """Read JSON as `write_json` wrote it: the strings "inf" and "-inf" become numbers.

    Raises:
        ValueError: for text that is not JSON.

    >>> parse_json('{"penalty": "-inf"}')
    {'penalty': -inf}
    """
    return map_leaves(json.loads(text), lambda leaf: float(leaf) if leaf in ("inf", "-inf") else leaf)


def strict(value: Any) -> Any:
    """Return plain data as strict JSON has it: infinities as the strings "inf" and "-inf", tuples as lists."""
    return map_leaves(value, lambda leaf: str(leaf) if isinstance(leaf, float) and math.isinf(leaf) else leaf)


def map_leaves(value: Any, change: Callable[[Any], Any]) -> Any:
    """Apply a function to everything in plain data that is not a mapping, a list or a tuple.

    >>> map_leaves({"a": [1, (2, 3)]}, str)
    {'a': ['1', ['2', '3']]}
    """
    if isinstance(value, Mapping):
        return {key: map_leaves(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [map_leaves(item, change) for item in value]
    return change(value)
