"""Writing files so that a half-written one never replaces a good one."""

import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file beside the target to write to; flushed to disk and moved into place in one step at the end.

    If the body raises, the target stays as it was and the new file goes.
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
    """A new folder beside the target to fill; moved into place at the end, and what stood there removed after.

    If the body raises, the target stays as it was and the new folder goes.
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
    """Write beside the target, flush to disk, then move into place in one step."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Strict JSON: infinities are written as the strings "inf" and "-inf", which `float` reads back."""
    write_text(path, json.dumps(strict(content), indent=2, allow_nan=False) + "\n")


def parse_json(text: str) -> Any:
    """JSON in which "inf" and "-inf" are numbers again, as `write_json` wrote them.

    Raises:
        ValueError: for text that is not JSON.

    >>> parse_json('{"penalty": "-inf"}')
    {'penalty': -inf}
    """
    return _numbers(json.loads(text))


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return float(value) if value in ("inf", "-inf") else value


def strict(value: Any) -> Any:
    """Plain data as strict JSON has it: infinities as the strings "inf" and "-inf", tuples as lists."""
    if isinstance(value, Mapping):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(item) for item in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value
