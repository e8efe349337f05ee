"""A vector in logit space: its file, and the steering rule that uses it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from svd_lightning.errors import InputError, explained
from svd_lightning.files import replacing

_FORMAT = "svd_lightning logit vector 1"


def save_vector(
    path: Path, values: Tensor, vocabulary: Mapping[str, int], *, about: Mapping[str, str] | None = None
) -> None:
    """Write a vector as a safetensors file, in one step.

    Args:
        path: the file.
        values: d, [V].
        vocabulary: the tokenizer's; loading refuses another.
        about: notes on the vector.

    Raises:
        InputError: for values that are not finite.
    """
    if not values.isfinite().all():
        raise InputError("vector: expected finite numbers, got NaN or infinity; lower the learning rate")
    metadata = {"format": _FORMAT, "vocabulary": _digest(vocabulary), "about": json.dumps(dict(about or {}))}
    with replacing(path) as temporary:
        save_file({"vector": values.detach().cpu().float().contiguous()}, temporary, metadata=metadata)


def load_vector(path: Path, vocabulary: Mapping[str, int] | None = None) -> tuple[Tensor, dict[str, str]]:
    """Read the vector of a file, float32 [V], and the notes on it.

    Args:
        path: the file.
        vocabulary: the tokenizer's; None accepts any.

    Raises:
        InputError: if the file is missing or not a vector, or the vector belongs to another vocabulary.
    """
    values, digest, about = _read(path)
    if vocabulary is not None:
        _check_vocabulary(path, digest, vocabulary)
    return values, about


class ConstantVector:
    """Steers along d = v at every position, a vector of `sampled-contrast` or `learned-vector`. EXPERIMENTAL.

    It needs a steering without a mask (`steering.alpha: null`), because the calibration table does not say which
    tokens its entries are. Its strength is calibrated like any other's. With an adapter that is not trained (a
    new LoRA changes nothing) it steers the base itself.

    Args:
        path: the file. A checkpoint holds the path, not the numbers.

    Raises:
        InputError: if the file cannot be read; later, for another vocabulary.
    """

    def __init__(self, path: str) -> None:
        self.path = str(path)
        self._values, self._vocabulary, _ = _read(Path(path).expanduser())

    def check_vocabulary(self, vocabulary: Mapping[str, int]) -> None:
        """Refuse a tokenizer with another vocabulary."""
        _check_vocabulary(Path(self.path), self._vocabulary, vocabulary)

    def centre(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """Return 0: the direction needs no centre."""
        return torch.zeros_like(log_p[..., 0])

    def direction(self, log_p: Tensor, log_q: Tensor, centre: Tensor) -> Tensor:
        """Return the vector at every position; the logits must cover the whole vocabulary."""
        if log_p.shape[-1] != len(self._values):
            raise InputError(
                f"steering.rules: ConstantVector holds {len(self._values)} logits and was asked for "
                f"{log_p.shape[-1]}; use the base with which it was made"
            )
        return self._values.to(log_p).expand_as(log_p)


def _read(path: Path) -> tuple[Tensor, str, dict[str, str]]:
    unreadable = (SafetensorError, OSError)
    with (
        explained(unreadable, lambda reason: f"{path}: cannot read it as a logit vector: {reason}"),
        safe_open(path, framework="pt") as file,
    ):
        about = file.metadata() or {}
        if about.get("format") != _FORMAT:
            raise InputError(f"{path}: expected a logit vector, got another file; make it again")
        values = file.get_tensor("vector")
    return values, about["vocabulary"], json.loads(about["about"])


def _digest(vocabulary: Mapping[str, int]) -> str:
    return hashlib.sha256(json.dumps(sorted(vocabulary.items())).encode()).hexdigest()[:32]


def _check_vocabulary(path: Path, digest: str, vocabulary: Mapping[str, int]) -> None:
    if _digest(vocabulary) != digest:
        raise InputError(
            f"{path}: expected a vector of this tokenizer's vocabulary, got one of another; make it with this base"
        )
