"""The folder where a run keeps the snapshot of its base and finds it again, and what it must match."""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L

from svd_lightning.callbacks.run import as_completion_data, run_folder
from svd_lightning.data import CompletionDataModule
from svd_lightning.data.questions import EncodedQuestion
from svd_lightning.errors import InputError
from svd_lightning.models import tokenizer_digest
from svd_lightning.module import SteeredLanguageModel
from svd_lightning.objective import ReferenceSnapshot
from svd_lightning.objective.snapshot import REMEDY

_log = logging.getLogger(__name__)
_FOLDER = "snapshot"


class SnapshotFolder:
    """Finds the snapshot of the base for this process's share of the calibration split, or starts a new one.

    A folder given by the user is the only place searched, and a snapshot there that does not match is refused.
    Otherwise it is `snapshot` in the run folder, or in that of the checkpoint from which the run starts: a cache,
    made again with a warning if it does not match.

    Args:
        folder: where snapshots are kept; null for the run folder.
    """

    def __init__(self, folder: str | None = None) -> None:
        self._given = None if folder is None else Path(folder).expanduser()
        self._key: dict[str, str] = {}
        self._unsaved: Path | None = None  # where `keep` is to save the snapshot
        self._snapshot = ReferenceSnapshot()

    def open(self, trainer: L.Trainer, module: SteeredLanguageModel) -> ReferenceSnapshot:
        """Return the snapshot for this module and split, empty if there is none yet. Call it on every rank.

        Raises:
            InputError: if the given folder holds a snapshot of something else, or a damaged one.
        """
        key = snapshot_key(trainer, module)
        if key == self._key:
            return self._snapshot
        run = run_folder(trainer)
        folder = self._given or (None if run is None else run / _FOLDER)
        folders = _folders(trainer, folder) if self._given is None else [self._given]
        name = f"reference-{trainer.global_rank}-of-{trainer.world_size}"
        found = self._find(trainer, [folder / name for folder in folders], key)
        self._unsaved = None if found is not None or folder is None else folder / name
        self._snapshot, self._key = found or ReferenceSnapshot(folder=folder), key
        return self._snapshot

    @property
    def tokens_to_come(self) -> int:
        """How many tokens of this process's share a new snapshot will hold; 0 where one was found."""
        return 0 if self._unsaved is None else int(self._key["tokens"].split()[0])

    def keep(self) -> None:
        """Save a new snapshot once every example is in it; if the disk is full or read-only, only warn."""
        path, self._unsaved = self._unsaved, None
        if path is not None:
            try:
                self._snapshot.save(path, self._key)
            except (OSError, InputError) as error:
                _log.warning("calibration: cannot keep the reference snapshot for later runs: %s", error)

    def _find(self, trainer: L.Trainer, paths: list[Path], key: Mapping[str, str]) -> ReferenceSnapshot | None:
        """Return the first snapshot that every rank can use: a base forward on some ranks would wait for ever."""
        problems = []
        for path in paths:
            snapshot, problem = _load(path, key)
            if trainer.strategy.reduce_boolean_decision(snapshot is not None, all=True):
                _log.info("calibration: the base's hidden states are those in %s", path)
                return snapshot
            if not trainer.strategy.reduce_boolean_decision(problem is None, all=True):
                problems.append(problem or f"{path}: another process cannot use its part of the snapshot")
        if problems and self._given is not None:
            raise InputError(f"calibration.snapshot: {problems[0]}")
        for problem in problems:
            _log.warning("calibration: %s; it is made again", problem.removesuffix(REMEDY))
        return None


def snapshot_key(trainer: L.Trainer, module: SteeredLanguageModel) -> dict[str, str]:
    """Return what the hidden states depend on: base, data, number format, and this process's share."""
    data = as_completion_data(trainer)
    return {
        "base": str(module.base_fingerprint),
        "base weights": str(module.base_digest),
        "tokenizer": tokenizer_digest(module.tokenizer),
        "data": data.digest("calibration"),
        "tokens": _tokens(data),
        "dtype": str(module.peft_model.get_base_model().dtype),
        "precision": str(trainer.precision),
        "process": f"{trainer.global_rank} of {trainer.world_size}",
    }


def _tokens(data: CompletionDataModule) -> str:
    """Return number and digest of this process's labels: (example, first position, end) of each run of them."""
    share: Any = data.calibration_dataloader().dataset
    items = [share[place] for place in range(len(share))]
    rows = [row for one in items for row in (one.choices if isinstance(one, EncodedQuestion) else [one])]
    spans = [(row.index, max(1, start), end) for row in rows for start, end in row.spans]
    number = sum(max(0, end - start) for _, start, end in spans)
    return f"{number} {hashlib.sha256(json.dumps(spans).encode()).hexdigest()[:32]}"


def _folders(trainer: L.Trainer, folder: Path | None) -> list[Path]:
    """Return where to look: this run's folder, and that of the run whose checkpoint it starts from."""
    found = [] if folder is None else [folder]
    if trainer.ckpt_path is not None:
        checkpoint = Path(trainer.ckpt_path)  # RUN/checkpoints/last.ckpt, or beside the snapshot
        found += [checkpoint.parent.parent / _FOLDER, checkpoint.parent / _FOLDER]
    return list(dict.fromkeys(found))


def _load(path: Path, key: Mapping[str, str]) -> tuple[ReferenceSnapshot | None, str | None]:
    """Return the snapshot in a folder, or what is wrong with it; neither if there is no folder."""
    if not path.exists():
        return None, None
    try:
        return ReferenceSnapshot.load(path, key), None
    except InputError as error:
        return None, str(error)
