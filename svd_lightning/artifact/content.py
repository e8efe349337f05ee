"""`steering_config.json`: what an artefact holds, and the digests that show whether it is whole."""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from svd_lightning.errors import InputError
from svd_lightning.files import strict, write_json
from svd_lightning.records import CalibrationRecord, UsedRecord
from svd_lightning.steering.saved import SteeringData, TasksData

FORMAT_VERSION = 2
"""Raised when older code cannot read the folder correctly: 2 holds corrections, which 1 would leave out."""

CONFIG, CARD = "steering_config.json", "README.md"
LISTING = "export.json"
"""In folders that need nothing of this library: what was written there, which may be replaced."""
_SELF, _MADE_BY = "sha256", "svd_lightning"
_EXPECTED = {"format_version", "steering", "tasks", "base", "adapter", "calibration", "versions", "files", _SELF}
_FROM_RECORD = (
    *("estimator", "verdict", "message", "guard", "gain_over_tuned", "gain_over_control"),
    *("tokens", "examples", "coverage", "mask_size", "kl_to_reference"),
    *("nll_base", "nll_tuned", "nll_steered", "nll_decoded_tuned", "nll_decoded_steered"),
    *("accuracy_tuned", "accuracy_steered", "data", "global_step"),
)


def calibration_summary(record: CalibrationRecord | None) -> dict[str, object] | None:
    """Return the main results of a calibration and its record's digest; None without one."""
    if record is None:
        return None
    return {"digest": digest_of(record), **{name: record.get(name) for name in _FROM_RECORD if name in record}}


def with_intervals(plain: TasksData, record: CalibrationRecord | None) -> dict[str, Any]:
    """Add to each steering the 95 % intervals of its strengths.

    They are None for strengths that are not the record's, and where the record has none.
    """
    by_task = {task["task"]: task["used"] for task in record.get("tasks") or []} if record else {}

    def one(steering: SteeringData, used: UsedRecord | None) -> dict[str, object]:
        same = used is not None and used["strengths"] == steering["strengths"]
        return {**steering, "intervals": used.get("intervals") if used and same else None}

    return {
        "steering": one(plain["steering"], record["used"] if record else None),
        "tasks": {task: one(steering, by_task.get(task)) for task, steering in plain["tasks"].items()},
    }


def digest_of(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of plain data; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=list).encode()).hexdigest()


def write_content(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `steering_config.json` with its own SHA-256 and that of every other file but the card."""
    files = _digests(folder)
    corrected = any("correction" in one for one in (content["steering"], *content["tasks"].values()))
    version = FORMAT_VERSION if corrected else 1
    written = strict({"format_version": version, **content, "files": files})
    write_json(folder / CONFIG, {**written, _SELF: digest_of(written)})


def read_content(folder: Path) -> dict[str, Any]:
    """Read the content of an artefact, and check that it is whole.

    Raises:
        InputError: for a folder without one, a newer format, an edited or missing file.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(
            f"artifact: expected a folder with {CONFIG}, got {str(folder)!r}, which has none; "
            "make one with `svd-lightning export RUN OUT`"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"artifact: cannot read {str(path)!r}: {error}; it is cut short or damaged") from error
    if not isinstance(content, dict) or not isinstance(content.get("format_version"), int):
        raise InputError(f"artifact: {str(path)!r} names no format_version; it is not a steering configuration")
    if content["format_version"] > FORMAT_VERSION:
        raise InputError(
            f"artifact: {str(folder)!r} has format {content['format_version']}, this version reads up to "
            f"{FORMAT_VERSION}; upgrade svd-lightning"
        )
    sealed = {name: value for name, value in content.items() if name != _SELF}
    if not content.keys() >= _EXPECTED or digest_of(sealed) != content[_SELF]:
        raise InputError(f"artifact: {str(path)!r} is not as it was written; export again")
    _check_files(folder, content["files"])
    return content


def write_listing(folder: Path, *, large: Collection[str] = ()) -> None:
    """Write `export.json` with the SHA-256 of every other file but the card, and null for the large ones."""
    write_json(folder / LISTING, {_MADE_BY: FORMAT_VERSION, "files": _digests(folder, large)})


def listed(folder: Path) -> set[str]:
    """Return the files that an export has written to a folder; none for a folder of other things.

    Raises:
        InputError: if they are not as they were written.
    """
    if (folder / CONFIG).is_file():
        return {CONFIG, CARD, *read_content(folder)["files"]}
    try:
        content = json.loads((folder / LISTING).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    if not isinstance(content, dict) or _MADE_BY not in content:
        return set()
    _check_files(folder, content["files"])
    return {LISTING, CARD, *content["files"]}


def files_of(folder: Path) -> set[str]:
    """Return the paths of all files in a folder, relative to it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _digests(folder: Path, large: Collection[str] = ()) -> dict[str, str | None]:
    names = sorted(files_of(folder) - {CARD, CONFIG, LISTING})
    return {name: None if name in large else _sha256(folder / name) for name in names}


def _check_files(folder: Path, digests: Mapping[str, str | None]) -> None:
    missing = sorted(set(digests) - files_of(folder))
    if missing:
        raise InputError(f"artifact: {str(folder)!r} lacks {', '.join(missing)}; copy the whole folder")
    changed = sorted(name for name, digest in digests.items() if digest and _sha256(folder / name) != digest)
    if changed:
        raise InputError(
            f"artifact: {', '.join(changed)} in {str(folder)!r} differ from what was exported: cut short, damaged "
            "or edited; copy the folder again, or export again"
        )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:  # hashlib.file_digest is new in Python 3.11
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
