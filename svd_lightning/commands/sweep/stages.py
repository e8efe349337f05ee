"""The commands of a sweep, and the folders of their results."""

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
from svd_lightning.commands.sweep.cells import Combination, Override, given_values, options_in
from svd_lightning.commands.sweep.sweep_file import names_file, read_yaml
from svd_lightning.errors import InputError
from svd_lightning.files import map_leaves

RECEIPT = "command.json"
"""The file in each finished folder with its command, and a digest of all settings behind it."""
JUDGED = "judged.json"
"""The summary in the folder of a judge."""
_RECALIBRATED = ("model.steering", "calibration")


@dataclass(frozen=True)
class Stage:
    """One run of the command line. Its folder exists, under its final name, exactly if it ended well."""

    verb: str
    folder: Path
    options: Sequence[tuple[str, Any]]
    """Options, without those that say where results go."""
    needs: "Stage | None" = None
    """The stage that must have ended well before."""

    @property
    def partial(self) -> Path:
        """The folder while it runs."""
        return self.folder.with_name(f"{self.folder.name}.partial")

    @property
    def done(self) -> bool:
        """Whether its results exist.

        Raises:
            InputError: if they are from other settings.
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
        """SHA-256 of the verb, its options, the files that they name, and the digest of the stage before."""
        parts = (self.verb, self.options, [repr(_opened(path)) for path in _files(self.options)])
        before = self.needs.digest if self.needs else ""
        return hashlib.sha256(f"{parts!r}{before}".encode()).hexdigest()

    @property
    def arguments(self) -> list[str]:
        """The verb and its options as on the command line, where later ones win."""
        options = [(option, one) for option, value in self.options for one in given_values(option, value)]
        words = [word for option, one in (*options, *self._results()) for word in (f"--{option}", as_text(one))]
        subject = [str(self.needs.folder)] if self.verb == "judge" and self.needs else []
        return [self.verb, *subject, *words]

    def _results(self) -> list[tuple[str, str]]:
        """Return the options that say where results go."""
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
    """Yield the warm start and then the stages of each evaluation, in the order in which they run.

    Args:
        start: the warm start.
        asked: its evaluations.
        verbs: verbs that each evaluation runs.
        output: the sweep's folder.
        judge: options of the verb judge.
    """
    folder = output / start.name
    fit = Stage("fit", folder / "fit", start.options)
    yield fit
    for evaluation in asked:
        place, before, written = folder / evaluation.name, fit, "last.ckpt"
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
    """Write a value as the command line reads it.

    >>> as_text("a"), as_text(0.2), as_text(None), as_text([0.1, 0.2])
    ('a', '0.2', 'null', '[0.1, 0.2]')
    """
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()


def _weights(stage: Stage, name: str) -> tuple[str, str]:
    """Return the checkpoint of a stage as an option."""
    return "ckpt_path", str(stage.folder / "checkpoints" / name)


def _steers_otherwise(evaluation: Combination) -> bool:
    names = (name for option in evaluation.options for name in options_in(dict([option])))
    return any(name == place or name.startswith(f"{place}.") for name in names for place in _RECALIBRATED)


def _files(options: Iterable[tuple[str, Any]]) -> list[Path]:
    """Return the YAML files among the values, without those of earlier stages, which have digests of their own."""
    named = [Path(one) for option, value in options for one in given_values(option, value) if names_file(one)]
    return [path for path in named if path.exists() and not (path.parent / RECEIPT).exists()]


def _opened(path: Path) -> Any:
    """Read a YAML file, with the contents of the files that it names in place of their names."""

    def opened(leaf: Any) -> Any:
        named = Path(os.path.normpath(path.parent / leaf)) if names_file(leaf) else None
        return _opened(named) if named is not None and named.exists() else leaf

    return map_leaves(read_yaml(path), opened)
