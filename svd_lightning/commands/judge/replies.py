"""Replies of judges, kept in a file so that no question is asked twice."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from threading import Lock

from svd_lightning.errors import InputError
from svd_lightning.files import writing


class Replies:
    """A JSONL file of replies, keyed by judge, model and the full request; safe to use from several threads.

    Each reply is one line, appended by one write. So a killed run leaves whole lines and at most one incomplete
    line, which is skipped and asked again. The key is a SHA-256 hash: the file does not hold the requests.

    Args:
        path: the file; the first reply creates it.

    Raises:
        InputError: if the file holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = Lock()
        self._replies = _read(path)

    def get(self, request: Mapping[str, object]) -> str | None:
        """Return the reply to a request; None if there is none."""
        return self._replies.get(_key(request))

    def add(self, request: Mapping[str, object], reply: str) -> None:
        """Store the reply to a request."""
        key = _key(request)
        line = json.dumps({"key": key, "reply": reply}, ensure_ascii=False) + "\n"
        with self._lock:
            self._replies[key] = reply
            _append(self.path, line.encode("utf-8", errors="replace"))


def _key(request: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def _append(path: Path, line: bytes) -> None:
    """Append in one write; after a line that a killed run cut short, start a new line."""
    with writing(path, good="the replies before are kept"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+", buffering=0) as file:
            if file.seek(0, os.SEEK_END) > 0:
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else b"\n" + line
            file.write(line)


def _read(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    replies = {}
    for number, line in enumerate(path.read_bytes().decode("utf-8", errors="replace").split("\n"), start=1):
        try:
            kept = json.loads(line or "null")
        except json.JSONDecodeError:  # incomplete
            continue
        if kept is None:
            continue
        if not isinstance(kept, dict) or not all(isinstance(kept.get(name), str) for name in ("key", "reply")):
            raise InputError(
                f"{path}, line {number}: expected a judge's reply, got {line!r:.80}; move the file away"
            )
        replies[kept["key"]] = kept["reply"]
    return replies
