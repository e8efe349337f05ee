"""Write files so that a half-written one never replaces a good one; JSON with infinities."""

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a new file to write to, then flush it to disk and move it to `path` in one step.

    If the body raises, `path` stays as it was and the new file is deleted.
    """
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
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as name:
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
