"""Make the combinations that a sweep runs."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from svd_lightning.commands.sweep.sweep_file import Axes, Options, Sweep, names_file, read_yaml
from svd_lightning.errors import InputError

Override = tuple[str, str]
"""The name of an option, without dashes, and its value as on the command line."""


@dataclass(frozen=True)
class Combination:
    """One value of each axis."""

    labels: Mapping[str, str]
    """The labels that it is shown under, by axis."""
    published: Mapping[str, str]
    """Its labels in the sweep file and in published tables, which an override does not change."""
    options: Sequence[tuple[str, Any]]
    """Options in the order of the command line: later ones win."""

    @property
    def name(self) -> str:
        """The labels as the name of a folder."""
        return "_".join(label.replace("/", "-") for label in self.labels.values())


def warm_starts(
    sweep: Sweep, *, only: Mapping[str, Sequence[str]] | None = None, overrides: Sequence[Override] = ()
) -> list[Combination]:
    """Return the combinations to warm-start, without those that `only` leaves out.

    If an override sets an option that every value of an axis sets, only the first value of that axis (of those in
    `only`) is left, and the override names it.

    Raises:
        InputError: if `only` names an unknown axis or label.
    """
    combinations = []
    for combination in _product(_narrowed(sweep, sweep.axes, only or {}), overrides):
        special = [
            option
            for exception in sweep.exceptions
            if _matches(exception["where"], combination.published)
            for option in exception["use"].items()
        ]
        options = [*sweep.fit.items(), *combination.options, *special, *overrides]
        combinations.append(replace(combination, options=options))
    return combinations


def evaluations(sweep: Sweep, *, only: Mapping[str, Sequence[str]] | None = None) -> list[Combination]:
    """Return the evaluations of each warm start; one combination without labels if there are no axes."""
    return list(_product(_narrowed(sweep, sweep.evaluate, only or {})))


def options_in(options: Options) -> set[str]:
    """Return the names of all options that are set, also those in configuration files, without `init_args`."""
    names: set[str] = set()
    for option, value in options.items():
        for one in given_values(option, value):
            names.update(_flat(read_yaml(Path(one))) if option == "config" else [_plain(option)])
    return names


def given_values(option: str, value: Any) -> list[Any]:
    """Return the values of an option; only `config` can be given several times."""
    return value if option == "config" and isinstance(value, list) else [value]


def _narrowed(sweep: Sweep, axes: Axes, only: Mapping[str, Sequence[str]]) -> Axes:
    """Check `only`, and return the axes with the labels that it and the sweep file leave."""
    known = {**sweep.axes, **sweep.evaluate}
    for axis, labels in only.items():
        there = sweep.only.get(axis, list(known.get(axis, {})))
        if not set(labels) <= set(there):
            expected = f"{axis} of {', '.join(there)}" if there else f"an axis of {', '.join(known)}"
            raise InputError(f"only: expected {expected}, got {axis}={','.join(labels)}")
    kept = {**sweep.only, **only}  # in their order: an override replaces the first label
    return {axis: {label: values[label] for label in kept.get(axis, values)} for axis, values in axes.items()}


def _product(axes: Axes, overrides: Sequence[Override] = ()) -> Iterator[Combination]:
    names: dict[str, str] = {}  # of axes that an override collapses to their first value
    for axis, values in axes.items() if overrides else ():
        in_all = set.intersection(*(options_in(options) for options in values.values()))
        for option, value in overrides:
            if _plain(option) in in_all:
                names[axis] = _label(value)
    left = [list(values)[: 1 if axis in names else None] for axis, values in axes.items()]
    for labels in itertools.product(*left):
        published = dict(zip(axes, labels, strict=True))
        options = [option for axis, label in published.items() for option in axes[axis][label].items()]
        yield Combination({**published, **names}, published, options)


def _matches(where: Mapping[str, str | Sequence[str]], labels: Mapping[str, str]) -> bool:
    return all(labels.get(axis) in ([one] if isinstance(one, str) else one) for axis, one in where.items())


def _label(value: str) -> str:
    path = Path(value)
    return path.stem if names_file(value) else path.name


def _flat(content: Any, prefix: str = "") -> Iterator[str]:
    if not isinstance(content, dict):
        yield _plain(prefix)
        return
    for key, value in content.items():
        yield from _flat(value, f"{prefix}.{key}" if prefix else key)


def _plain(option: str) -> str:
    return option.replace(".init_args", "")
