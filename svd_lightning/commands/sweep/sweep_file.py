"""Read sweep files."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from typing_extensions import TypedDict

from svd_lightning.errors import InputError
from svd_lightning.files import map_leaves

Options = Mapping[str, Any]
"""Options of the command line by name, without dashes; `config` may be a list of files."""
Axes = Mapping[str, Mapping[str, Options]]
"""Axes by name, their values by label, each with its options."""


class SweepException(TypedDict):
    """Options for the combinations that have, on each of these axes, one of these labels."""

    where: Mapping[str, str | Sequence[str]]
    use: Options


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A grid of warm starts, and how each is evaluated.

    In the file, values that end in .yaml are paths relative to it; `include: FILE` starts from that file.
    """

    name: str
    """The file's name without its suffix, and the name of the folder in runs/."""
    fit: Options = field(default_factory=dict)
    """Options of every warm start."""
    axes: Axes = field(default_factory=dict)
    """Each combination of their values is warm-started once."""
    only: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Labels of an included axis to keep."""
    exceptions: Sequence[SweepException] = ()
    """Options for some combinations; they win over all others."""
    evaluate: Axes = field(default_factory=dict)
    """Each warm start is evaluated with each combination of these. Strengths are calibrated again if a combination
    changes the steering or the calibration."""
    verbs: Sequence[str] = ("test",)
    """The verbs that an evaluation runs: test, predict, judge (of what predict wrote)."""
    paper: str | None = None
    """File with published figures, for `svd_lightning.commands.sweep.published`."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Columns of the table with their metrics: `boolq/accuracy` for one task of a mixture. None: all metrics."""
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
"""Verbs that can evaluate a warm start, in this order."""


def load_sweep(path: Path) -> Sweep:
    """Read a sweep file and those that it includes.

    Raises:
        InputError: for a file that is missing or not readable, and for unknown keys and values.
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
    """Return the mapping in a file, merged axis by axis over the one that it includes."""
    content = map_leaves(
        read_yaml(path), lambda leaf: os.path.normpath(path.parent / leaf) if names_file(leaf) else leaf
    )
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a mapping, got {type(content).__name__}")
    if "include" not in content:
        return content
    included = _content(Path(content.pop("include")))
    for place in ("axes", "fit", "only", "averages"):
        if place in included and place in content:
            content[place] = {**included[place], **content[place]}
    return {**included, **content}


def _axis(path: Path, name: str, values: Any) -> dict[str, Options]:
    wrong = not isinstance(values, dict) or not values
    if wrong or not all(isinstance(options, dict) for options in values.values()):
        raise InputError(
            f"{path}: axis {name!r}: expected options by label, as in {{lora: {{model.adapter: FILE}}}}"
        )
    return {str(label): options for label, options in values.items()}


def read_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        InputError: if it is missing or not readable.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: expected a readable YAML file: {reason}") from error


def names_file(value: Any) -> bool:
    """Whether a value is the name of a YAML file."""
    return isinstance(value, str) and value.endswith(".yaml")
