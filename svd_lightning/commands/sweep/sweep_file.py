"""What a sweep file says."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from typing_extensions import TypedDict

from svd_lightning.errors import InputError

Options = Mapping[str, Any]
"""Options of the command line by name, without the dashes; `config` may be a list of files."""
Axes = Mapping[str, Mapping[str, Options]]
"""Axes by name, their values by label, each with the options that it stands for."""


class SweepException(TypedDict):
    """Options for the combinations that have one of the labels on each of the axes."""

    where: Mapping[str, str | Sequence[str]]
    use: Options


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A grid of warm starts, and how each is evaluated.

    In the file, values that end in .yaml are files beside it; `include: FILE` takes what that file says first.
    """

    name: str
    """The file's name without its suffix; also the folder below runs/."""
    fit: Options = field(default_factory=dict)
    """Options of every warm start."""
    axes: Axes = field(default_factory=dict)
    """Each combination of their values is warm-started once."""
    only: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Labels to keep of an axis, where it is narrower than the one included."""
    exceptions: Sequence[SweepException] = ()
    """Options for some combinations, over all others."""
    evaluate: Axes = field(default_factory=dict)
    """Of each warm start, each combination of these is evaluated, without another warm start; where one changes
    the steering or the calibration, the strengths are calibrated again."""
    verbs: Sequence[str] = ("test",)
    """What an evaluation runs: test, predict, judge (of what predict wrote)."""
    paper: str | None = None
    """File with published figures, as `svd_lightning.commands.sweep.published` reads it."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Columns of the table: the metric in each, `boolq/accuracy` for one task of a mixture. None: all metrics."""
    averages: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Columns that are the mean of others."""

    def __post_init__(self) -> None:
        for axis, labels in self.only.items():
            known = [str(label) for label in {**self.axes, **self.evaluate}.get(axis, {})]
            for label in labels:
                if label not in known:
                    raise InputError(f"{self.name}: only: expected {axis} of {', '.join(known)}, got {label!r}")
        for verb in self.verbs:
            if verb not in VERBS:
                raise InputError(f"{self.name}: verbs: expected {', '.join(VERBS)}, got {verb!r}")
        if "judge" in self.verbs and "predict" not in self.verbs:
            raise InputError(f"{self.name}: verbs: expected predict, whose answers judge judges, got {self.verbs}")


VERBS = ("test", "predict", "judge")
"""What can be asked of a warm start, in this order."""


def load_sweep(path: Path) -> Sweep:
    """Read a sweep file, and those that it includes.

    Raises:
        InputError: for a file that is missing or not readable, and for keys and values that mean nothing.
    """
    content = _content(path)
    known = {each.name for each in fields(Sweep)} - {"name"}
    if unknown := sorted(set(content) - known):
        raise InputError(f"{path}: expected {', '.join(sorted(known))}, got {', '.join(unknown)}")
    if not content.get("axes"):
        raise InputError(f"{path}: expected a sweep with axes, got none; a single run is `svd-lightning fit`")
    for place in ("axes", "evaluate"):
        content[place] = {name: _axis(path, name, values) for name, values in content.get(place, {}).items()}
    return Sweep(name=path.stem, **content)


def _content(path: Path) -> dict[str, Any]:
    """The mapping in a file over the one that it includes, axis by axis, with files as seen from here."""
    found = _located(read_yaml(path), path.parent)
    if not isinstance(found, dict):
        raise InputError(f"{path}: expected a mapping, got {type(found).__name__}")
    if "include" not in found:
        return found
    below = _content(Path(found.pop("include")))
    for place in ("axes", "fit", "only", "averages"):
        if place in below and place in found:
            found[place] = {**below[place], **found[place]}
    return {**below, **found}


def _axis(path: Path, name: str, values: Any) -> dict[str, Options]:
    wrong = not isinstance(values, dict) or not values
    if wrong or not all(isinstance(options, dict) for options in values.values()):
        raise InputError(
            f"{path}: axis {name!r}: expected options by label, as in {{lora: {{model.adapter: FILE}}}}"
        )
    return {str(label): options for label, options in values.items()}


def read_yaml(path: Path) -> Any:
    """Read a YAML file; raises InputError if that fails."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: expected a readable YAML file: {reason}") from error


def _located(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {key: _located(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_located(item, folder) for item in value]
    return os.path.normpath(folder / value) if names_file(value) else value


def names_file(value: Any) -> bool:
    """Whether a value is the name of a YAML file."""
    return isinstance(value, str) and value.endswith(".yaml")
