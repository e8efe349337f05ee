"""The calibration table as a safetensors file: every bit of it, or an error."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from svd_lightning.errors import InputError, explained
from svd_lightning.files import replacing
from svd_lightning.objective.tokens import ENTRY_FIELDS, INTEGER_FIELDS, TOKEN_FIELDS, TokenTable

_FORMAT = "svd_lightning calibration table 1"


def save_table(table: TokenTable, path: Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write a table in one step: a reader finds the old file or the new one.

    Args:
        table: the calibration tokens.
        path: the file to write.
        metadata: anything else about the table; `load_table` returns it too.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in table.tensors().items()}
    about = {
        "format": _FORMAT,
        "alpha": repr(float(table.alpha)),
        "rules": json.dumps(list(table.rule_names)),
        "tasks": json.dumps(table.tasks),
        "metadata": json.dumps(dict(metadata or {})),
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={**about, "checksum": _checksum(tensors, about)})


def load_table(path: Path) -> tuple[TokenTable, dict[str, str]]:
    """Return the table that `save_table` wrote, and its metadata.

    Raises:
        InputError: if the file is missing, cut short, altered, or something else.
    """
    with explained((SafetensorError, OSError, KeyError), lambda reason: str(_damaged(path, reason))):
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            if about.get("format") != _FORMAT:
                raise InputError(f"{path}: expected a calibration table, got another file; calibrate again")
            tensors = {name: file.get_tensor(name) for name in ENTRY_FIELDS + TOKEN_FIELDS}
        checksum = about.pop("checksum", None)
        if checksum != _checksum(tensors, about):
            raise _damaged(path, "its checksum does not match")
        _check_shapes(path, tensors, rules := tuple(json.loads(about["rules"])))
        tasks = {int(example): task for example, task in json.loads(about.get("tasks", "{}")).items()}
        table = TokenTable(tensors, alpha=float(about["alpha"]), rule_names=rules, tasks=tasks)
        metadata = json.loads(about["metadata"])
    return table, metadata


def _checksum(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """Return the CRC-32 over the metadata and every tensor's bytes, in order of their names."""
    checksum = zlib.crc32(json.dumps(dict(about), sort_keys=True).encode())
    for name in sorted(tensors):
        checksum = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, checksum)
    return f"{checksum:08x}"


def _check_shapes(path: Path, tensors: Mapping[str, Tensor], rules: tuple[str, ...]) -> None:
    """Refuse shapes and dtypes that another program may have written with a right checksum."""
    tokens = tensors["size"].numel()
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(TOKEN_FIELDS, (tokens,))
    shapes |= dict.fromkeys(ENTRY_FIELDS, (int(tensors["size"].sum()),))
    shapes["centres"] = (tokens, len(rules))
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise _damaged(path, f"{name}: expected shape {shape}, got {tuple(tensors[name].shape)}")
        if (tensors[name].dtype == torch.int64) is not (name in INTEGER_FIELDS):
            raise _damaged(path, f"{name}: got {tensors[name].dtype}")


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(
        f"{path}: expected a whole calibration table, got a damaged file ({reason}); calibrate again"
    )
