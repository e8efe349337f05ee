"""Results of a sweep as one table, the published figures beside them."""

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
    """What one distribution achieved after one warm start, in one of its evaluations."""

    labels: dict[str, str]
    """What it was, by axis."""
    distribution: str
    published: dict[str, str]
    """The labels that it has in published tables."""
    strengths: str = ""
    """Of each rule; empty for base and tuned."""
    values: dict[str, Measurement] = field(default_factory=dict)
    """By column."""

    def figure(self, table: PublishedTable | None, column: str) -> float | None:
        """The published figure of a column, None where there is none."""
        methods = {TUNED: WARM_START, STEERED: self.published.get("method", PUBLISHED_STEERED)}
        if table is None or self.distribution not in methods:
            return None
        return table.figure(self.published, methods[self.distribution], column)


_ORDER = (BASE, TUNED, "control", "paper", STEERED, "joint")


@dataclass(frozen=True)
class Found:
    """What one evaluation of a warm start left."""

    start: Combination
    evaluation: Combination
    measured: Sequence[Measurement]
    strengths: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By distribution and rule."""


def rows(sweep: Sweep, found: Iterable[Found]) -> list[Row]:
    """The measurements in the sweep's columns, those of averages among them where all their parts are there."""
    table: dict[tuple[object, ...], Row] = {}
    found = list(found)
    columns = sweep.columns or {one.name: one.name for each in found for one in each.measured}
    order = (*columns, *sweep.averages)
    for each in found:
        labels = {**each.start.labels, **each.evaluation.labels}
        published = {**each.start.published, **each.evaluation.published}
        for one in each.measured:
            strengths = _shown(each.strengths.get(one.distribution, {}))
            new = Row(labels, one.distribution, published, strengths)
            row = table.setdefault((*labels.values(), one.distribution), new)
            row.values.update({column: one for column, metric in columns.items() if metric == one.name})
    for row in table.values():
        _average(row, sweep)
        row.values.update({column: row.values.pop(column) for column in order if column in row.values})
    return sorted((row for row in table.values() if row.values), key=lambda row: _rank(row, sweep))


def _shown(strengths: Mapping[str, float]) -> str:
    return ", ".join(f"{rule} {strength:.3g}" for rule, strength in strengths.items())


def _rank(row: Row, sweep: Sweep) -> tuple[int, ...]:
    """Rows in the order of the sweep file, the distributions of each from base to joint."""
    axes = {**sweep.axes, **sweep.evaluate}
    places = (list(axes[axis]).index(label) for axis, label in row.published.items())
    return (*places, _ORDER.index(row.distribution) if row.distribution in _ORDER else len(_ORDER))


def _average(row: Row, sweep: Sweep) -> None:
    for column, parts in sweep.averages.items():
        if all(part in row.values for part in parts):
            found = [row.values[part] for part in parts]
            mean = fmean(one.value for one in found)
            row.values[column] = Measurement("average", row.distribution, mean, judge=found[0].judge)


def as_csv(table: Sequence[Row], published: PublishedTable | None) -> str:
    """One line per number: labels, distribution, column, ours with its gain over the tuned model, theirs."""
    axes = list(dict.fromkeys(axis for row in table for axis in row.labels))
    numbers = ("value", "gain", "low", "high", "paper", "difference")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*axes, "distribution", "strengths", "column", "unit", "judge", *numbers])
    for row in table:
        for column, one in row.values.items():
            theirs = row.figure(published, column)
            found = (one.value, *(one.gain or (None,) * 3), theirs, None if theirs is None else one.value - theirs)
            place = [
                *(row.labels.get(axis, "") for axis in axes),
                row.distribution,
                row.strengths,
                column,
                one.unit,
                one.judge or "",
            ]
            writer.writerow([*place, *("" if number is None else f"{number:.4f}" for number in found)])
    return text.getvalue()


def as_markdown(table: Sequence[Row], published: PublishedTable | None) -> str:
    """One line per row; in each cell ours, the gain's interval, the published figure and the difference to it."""
    axes = list(dict.fromkeys(axis for row in table for axis in row.labels))
    columns = {column: one for row in table for column, one in row.values.items()}
    heads = [*axes, "distribution", "strengths", *(_head(column, one) for column, one in columns.items())]
    lines = [*_notes(table, published), "", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in table:
        cells = [_cell(row.values.get(column), row.figure(published, column)) for column in columns]
        place = [*(row.labels.get(axis, "") for axis in axes), row.distribution, row.strengths]
        lines.append("| " + " | ".join([*place, *cells]) + " |")
    return "\n".join(lines) + "\n"


def _notes(table: Sequence[Row], published: PublishedTable | None) -> list[str]:
    """What the cells hold, and what the published figures are of."""
    notes = ["In parentheses the gain over tuned with its paired 95 % bootstrap interval."]
    if published is not None:
        notes.append(f"Published figures, and ours minus them: {published.source}, Table {published.table}.")
        pairs = {(row.labels[axis], name) for row in table for axis, name in row.published.items()}
        notes += [
            f"{ours} stands where the paper has {theirs}." for ours, theirs in sorted(pairs) if ours != theirs
        ]
    return [" ".join(notes)]


def _head(column: str, one: Measurement) -> str:
    return f"{column} by {one.judge}, {one.unit}" if one.judge else f"{column}, {one.unit}"


def _cell(one: Measurement | None, theirs: float | None) -> str:
    if one is None:
        return ""
    digits = 3 if one.unit == NATS else 1
    gain = "" if one.gain is None else " ({:+.{d}f} [{:+.{d}f}, {:+.{d}f}])".format(*one.gain, d=digits)
    paper = "" if theirs is None else f"; paper {theirs:.2f}, {one.value - theirs:+.1f}"
    return f"{one.value:.{digits}f}{gain}{paper}"
