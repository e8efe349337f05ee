"""The results of a sweep as one table, beside published figures."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from svd_lightning.commands.sweep.cells import Combination
from svd_lightning.commands.sweep.published import STEERED as PUBLISHED_STEERED
from svd_lightning.commands.sweep.published import WARM_START, PublishedTable
from svd_lightning.commands.sweep.results import BASE, NATS, STEERED, TUNED, Measurement
from svd_lightning.commands.sweep.sweep_file import Sweep


@dataclass(frozen=True)
class Row:
    """The results of one distribution in one evaluation of one warm start."""

    labels: dict[str, str]
    """Labels by axis."""
    distribution: str
    published: dict[str, str]
    """Labels in published tables."""
    strengths: str = ""
    """The strength of each rule; empty for base and tuned."""
    values: dict[str, Measurement] = field(default_factory=dict)
    """Measurements by column."""

    def figure(self, table: PublishedTable | None, column: str) -> float | None:
        """Return the published figure of a column; None if there is none."""
        methods = {TUNED: WARM_START, STEERED: self.published.get("method", PUBLISHED_STEERED)}
        if table is None or self.distribution not in methods:
            return None
        return table.figure(self.published, methods[self.distribution], column)


_ORDER = (BASE, TUNED, "control", "paper", STEERED, "joint")


@dataclass(frozen=True)
class Found:
    """The results of one evaluation of a warm start."""

    start: Combination
    evaluation: Combination
    measured: Sequence[Measurement]
    strengths: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Strengths by distribution and rule."""


def rows(sweep: Sweep, found: Iterable[Found]) -> list[Row]:
    """Return the rows of the table, with the sweep's columns; an average needs all its parts."""
    table: dict[tuple[object, ...], Row] = {}
    found = list(found)
    columns = sweep.columns or {one.name: one.name for each in found for one in each.measured}
    order = (*columns, *sweep.averages)
    for each in found:
        labels = {**each.start.labels, **each.evaluation.labels}
        published = {**each.start.published, **each.evaluation.published}
        for one in each.measured:
            by_rule = each.strengths.get(one.distribution, {})
            strengths = ", ".join(f"{rule} {strength:.3g}" for rule, strength in by_rule.items())
            new = Row(labels, one.distribution, published, strengths)
            row = table.setdefault((*labels.values(), one.distribution), new)
            row.values.update({column: one for column, metric in columns.items() if metric == one.name})
    for row in table.values():
        _average(row, sweep)
        row.values.update({column: row.values.pop(column) for column in order if column in row.values})
    return sorted((row for row in table.values() if row.values), key=lambda row: _rank(row, sweep))


def _rank(row: Row, sweep: Sweep) -> tuple[int, ...]:
    """Return what sorts rows as in the sweep file, and the distributions of each from base to joint."""
    axes = {**sweep.axes, **sweep.evaluate}
    places = (list(axes[axis]).index(label) for axis, label in row.published.items())
    return (*places, _ORDER.index(row.distribution) if row.distribution in _ORDER else len(_ORDER))


def _average(row: Row, sweep: Sweep) -> None:
    for column, parts in sweep.averages.items():
        if all(part in row.values for part in parts):
            averaged = [row.values[part] for part in parts]
            mean = fmean(one.value for one in averaged)
            row.values[column] = Measurement("average", row.distribution, mean, judge=averaged[0].judge)


def as_csv(table: Sequence[Row], published: PublishedTable | None) -> str:
    """Write one line per number: labels, distribution, column, ours with its gain over tuned, the published."""
    axes = _axes(table)
    numbers = ("value", "gain", "low", "high", "paper", "difference")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*axes, "distribution", "strengths", "column", "unit", "judge", *numbers])
    for row in table:
        for column, one in row.values.items():
            theirs = row.figure(published, column)
            difference = None if theirs is None else one.value - theirs
            cells = (
                "" if number is None else f"{number:.4f}"
                for number in (one.value, *(one.gain or (None,) * 3), theirs, difference)
            )
            writer.writerow([*_place(row, axes), column, one.unit, one.judge or "", *cells])
    return text.getvalue()


def _axes(table: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(axis for row in table for axis in row.labels))


def _place(row: Row, axes: Sequence[str]) -> list[str]:
    return [*(row.labels.get(axis, "") for axis in axes), row.distribution, row.strengths]


def as_markdown(table: Sequence[Row], published: PublishedTable | None) -> str:
    """Write one line per row; a cell has ours, its gain over tuned, the published figure and the difference."""
    axes = _axes(table)
    columns = {column: one for row in table for column, one in row.values.items()}
    heads = [*axes, "distribution", "strengths", *(_head(column, one) for column, one in columns.items())]
    lines = [_note(table, published), "", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in table:
        cells = [_cell(row.values.get(column), row.figure(published, column)) for column in columns]
        lines.append("| " + " | ".join([*_place(row, axes), *cells]) + " |")
    return "\n".join(lines) + "\n"


def _note(table: Sequence[Row], published: PublishedTable | None) -> str:
    """Say what the cells hold, and where the published figures are from."""
    notes = ["In parentheses the gain over tuned with its paired 95 % bootstrap interval."]
    if published is not None:
        notes.append(f"Published figures, and ours minus them: {published.source}, Table {published.table}.")
        pairs = {(row.labels[axis], name) for row in table for axis, name in row.published.items()}
        notes += [
            f"{ours} stands where the paper has {theirs}." for ours, theirs in sorted(pairs) if ours != theirs
        ]
    return " ".join(notes)


def _head(column: str, one: Measurement) -> str:
    return f"{column} by {one.judge}, {one.unit}" if one.judge else f"{column}, {one.unit}"


def _cell(one: Measurement | None, theirs: float | None) -> str:
    if one is None:
        return ""
    digits = 3 if one.unit == NATS else 1
    gain = "" if one.gain is None else " ({:+.{d}f} [{:+.{d}f}, {:+.{d}f}])".format(*one.gain, d=digits)
    paper = "" if theirs is None else f"; paper {theirs:.2f}, {one.value - theirs:+.1f}"
    return f"{one.value:.{digits}f}{gain}{paper}"
