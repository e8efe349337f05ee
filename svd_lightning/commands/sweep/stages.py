"""The commands of a sweep, and the folders in which they leave their results."""

import hashlib
import json
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from svd_lightning.checkpoint import CALIBRATED
from svd_lightning.commands.sweep.cells import Combination, Override, options_in
from svd_lightning.commands.sweep.sweep_file import names_file, read_yaml
from svd_lightning.errors import InputError

RECEIPT = "command.json"
"""In each finished folder: the command that made it, and a digest of all the settings behind it."""
JUDGED = "judged.json"
"""In the folder of a judge: its summary."""
_RECALIBRATED = ("model.steering", "calibration")


@dataclass(frozen=True)
class Stage:
    """One run of the command line. Its folder is there, under its name, exactly when it ended well."""

    verb: str
    folder: Path
    options: Sequence[tuple[str, Any]]
    """Without those that say where its results go."""
    needs: "Stage | None" = None
    """What must have ended well before."""

    @property
    def partial(self) -> Path:
        """Where it works until it is done."""
        return self.folder.with_name(f"{self.folder.name}.partial")

    @property
    def done(self) -> bool:
        """Whether its results are there.

        Raises:
            InputError: if they are those of other settings.
        """
        if not self.folder.exists():
            return False
        try:
            digest = json.loads((self.folder / RECEIPT).read_text(encoding="utf-8"))["digest"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.folder}: expected a run of this sweep, got another folder; remove it"
            ) from error
        if digest != self.digest:
            raise InputError(
                f"output: {self.folder} holds a run with other settings (its {RECEIPT} has the command); choose "
                "another --output, or delete that folder"
            )
        return True

    @property
    def digest(self) -> str:
        """SHA-256 over the verb, its options, the files that they name, and all of the stage before."""
        parts = (self.verb, self.options, [*map(_text_of, _files(self.options))])
        before = self.needs.digest if self.needs else ""
        return hashlib.sha256(f"{parts!r}{before}".encode()).hexdigest()

    @property
    def arguments(self) -> list[str]:
        """The verb and its options as on the command line, where what follows wins."""
        options = [(option, one) for option, value in self.options for one in _given(option, value)]
        words = [word for option, one in (*options, *self._results()) for word in (f"--{option}", as_text(one))]
        return [self.verb, *self._subject(), *words]

    def _subject(self) -> list[str]:
        return [str(self.needs.folder)] if self.verb == "judge" and self.needs else []

    def _results(self) -> list[tuple[str, str]]:
        """The options that say where results go."""
        if self.verb == "judge":
            return [("output", str(self.partial / JUDGED))]
        return [
            ("trainer.logger", "lightning.pytorch.loggers.TensorBoardLogger"),
            ("trainer.logger.save_dir", str(self.folder.parent)),
            ("trainer.logger.name", ""),
            ("trainer.logger.version", self.partial.name),
        ]

    def __str__(self) -> str:
        return shlex.join(["svd-lightning", *self.arguments])


def stages(
    start: Combination,
    asked: Iterable[Combination],
    verbs: Sequence[str],
    *,
    output: Path,
    judge: Sequence[Override] = (),
) -> Iterator[Stage]:
    """The warm start and then each evaluation's stages, in the order in which they run.

    Args:
        start: what is warm-started.
        asked: the evaluations of it.
        verbs: what an evaluation runs.
        output: the sweep's folder.
        judge: options of the verb judge.
    """
    here = output / start.name
    fit = Stage("fit", here / "fit", start.options)
    yield fit
    for evaluation in asked:
        place, before, written = here / evaluation.name, fit, "last.ckpt"
        options = [("config", str(fit.folder / "config.yaml")), *evaluation.options]
        if _steers_otherwise(evaluation):
            before = Stage("calibrate", place / "calibrate", [*options, _weights(fit, written)], fit)
            written = CALIBRATED
            yield before
        options = [*options, _weights(before, written)]
        done = {verb: Stage(verb, place / verb, options, before) for verb in verbs if verb != "judge"}
        yield from done.values()
        if "judge" in verbs:
            yield Stage("judge", place / "judge", judge, done["predict"])


def as_text(value: Any) -> str:
    """A value as the command line reads it.

    >>> as_text("a"), as_text(0.2), as_text(None), as_text([0.1, 0.2])
    ('a', '0.2', 'null', '[0.1, 0.2]')
    """
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()


def _weights(stage: Stage, name: str) -> tuple[str, str]:
    """The checkpoint that a stage left, as an option."""
    return "ckpt_path", str(stage.folder / "checkpoints" / name)


def _steers_otherwise(evaluation: Combination) -> bool:
    found = (name for option in evaluation.options for name in options_in(dict([option])))
    return any(name == place or name.startswith(f"{place}.") for name in found for place in _RECALIBRATED)


def _given(option: str, value: Any) -> list[Any]:
    """The values of an option that may be given several times."""
    return value if option == "config" and isinstance(value, list) else [value]


def _files(options: Iterable[tuple[str, Any]]) -> list[Path]:
    """The YAML files among the values that exist now: those of earlier stages are covered by their digests."""
    named = [Path(one) for option, value in options for one in _given(option, value) if names_file(one)]
    return [path for path in named if path.exists() and not (path.parent / RECEIPT).exists()]


def _text_of(path: Path) -> str:
    """A file with those that it names in their places."""
    return repr(_opened(read_yaml(path), path.parent))


def _opened(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {key: _opened(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_opened(item, folder) for item in value]
    path = Path(os.path.normpath(folder / value)) if names_file(value) else None
    return _opened(read_yaml(path), path.parent) if path is not None and path.exists() else value
