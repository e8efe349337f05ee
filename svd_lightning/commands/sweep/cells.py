"""From a sweep file to the combinations that are run."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svd_lightning.commands.sweep.sweep_file import Axes, Options, Sweep, names_file, read_yaml
from svd_lightning.errors import InputError

Override = tuple[str, str]
"""An option by name, without the dashes, and its value as written on the command line."""


@dataclass(frozen=True)
class Combination:
    """One value of each axis."""

    labels: Mapping[str, str]
    """What it is called, by axis."""
    published: Mapping[str, str]
    """What it is called in the sweep file, and in published tables: an override changes only the other."""
    options: Sequence[tuple[str, Any]]
    """In the order of the command line: later ones win."""

    @property
    def name(self) -> str:
        """The labels as the name of a folder."""
        return "_".join(label.replace("/", "-") for label in self.labels.values())


def warm_starts(
    sweep: Sweep, *, only: Mapping[str, Sequence[str]] | None = None, overrides: Sequence[Override] = ()
) -> list[Combination]:
    """The combinations that are warm-started, without those that `only` leaves out.

    An override of an option that every value of an axis sets leaves one value of that axis, the first (of those
    that `only` names), under the override's name.

    Raises:
        InputError: if `only` names what there is not, or leaves nothing.
    """
    chosen = _narrowed(sweep.axes, {**sweep.only, **_known(sweep, only or {})})
    found = []
    for combination in _product(_collapsed(chosen, overrides)):
        special = [
            tuple(option)
            for exception in sweep.exceptions
            if _matches(exception["where"], combination.published)
            for option in exception["use"].items()
        ]
        options = [*sweep.fit.items(), *combination.options, *special, *overrides]
        found.append(Combination(combination.labels, combination.published, options))
    return found


def evaluations(sweep: Sweep, *, only: Mapping[str, Sequence[str]] | None = None) -> list[Combination]:
    """What is asked of each warm start; one combination without labels where there are no axes."""
    chosen = _narrowed(sweep.evaluate, {**sweep.only, **_known(sweep, only or {})})
    return list(
        _product({axis: {label: (label, o) for label, o in values.items()} for axis, values in chosen.items()})
    )


def options_in(options: Options) -> set[str]:
    """Names of all options that are set, those in configuration files included, without `init_args`."""
    names: set[str] = set()
    for option, value in options.items():
        if option == "config":
            for file in value if isinstance(value, list) else [value]:
                names |= set(_flat(read_yaml(Path(file))))
        else:
            names.add(_plain(option))
    return names


def _known(sweep: Sweep, only: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
    axes = {**sweep.axes, **sweep.evaluate}
    for axis, labels in only.items():
        there = sweep.only.get(axis, list(axes.get(axis, {})))
        if not set(labels) <= set(there):
            expected = f"{axis} of {', '.join(there)}" if there else f"an axis of {', '.join(axes)}"
            raise InputError(f"only: expected {expected}, got {axis}={','.join(labels)}")
    return only


def _narrowed(axes: Axes, only: Mapping[str, Sequence[str]]) -> Axes:
    return {  # in the order of `only`, whose first label stands for an override
        axis: {label: values[label] for label in only.get(axis, values)} for axis, values in axes.items()
    }


def _collapsed(axes: Axes, overrides: Sequence[Override]) -> dict[str, dict[str, tuple[str, Options]]]:
    """By axis and label what the label is shown as, and the options."""
    shown: dict[str, dict[str, tuple[str, Options]]] = {}
    for axis, values in axes.items():
        in_all = set.intersection(*(options_in(options) for options in values.values()))
        given = [value for option, value in overrides if _plain(option) in in_all]
        label = next(iter(values))
        every = {label: (label, options) for label, options in values.items()}
        shown[axis] = {label: (_label(given[-1]), values[label])} if given else every
    return shown


def _product(axes: Mapping[str, Mapping[str, tuple[str, Options]]]) -> Iterator[Combination]:
    for labels in itertools.product(*axes.values()):
        published = dict(zip(axes, labels, strict=True))
        picked = {axis: axes[axis][label] for axis, label in published.items()}
        options = [option for _, given in picked.values() for option in given.items()]
        yield Combination({axis: shown for axis, (shown, _) in picked.items()}, published, options)


def _matches(where: Mapping[str, str | Sequence[str]], labels: Mapping[str, str]) -> bool:
    return all(
        labels.get(axis) in ([wanted] if isinstance(wanted, str) else wanted) for axis, wanted in where.items()
    )


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
