"""Read published figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svd_lightning.commands.sweep.sweep_file import read_yaml
from svd_lightning.errors import InputError

WARM_START, STEERED = "warm_start", "svdecode"
"""Names of the tuned and the steered model in published tables."""


@dataclass(frozen=True)
class PublishedTable:
    """A table of a publication, in percent."""

    source: str
    table: int
    columns: tuple[str, ...]
    rows: tuple[tuple[Mapping[str, str], tuple[float, ...]], ...]
    """Labels of each row, its method included, and a figure for each column."""

    def figure(self, labels: Mapping[str, str], method: str, column: str) -> float | None:
        """Return a figure; None if there is none.

        Args:
            labels: such as model and peft; at least those of the rows.
            method: warm_start, svdecode, or another of the table.
            column: name of the column.
        """
        labels = {**labels, "method": method}
        for row, values in self.rows:
            if column in self.columns and all(labels.get(name) == label for name, label in row.items()):
                return values[self.columns.index(column)]
        return None


def load_published(path: Path) -> PublishedTable:
    """Read a table: `source`, `table`, `unit: percent`, `labels` of all rows, `columns`, and `rows`, each with
    labels, `method`, and as many `values` as there are columns.

    Raises:
        InputError: for a file of another form.
    """
    content = read_yaml(path)
    try:
        common = content.get("labels", {})
        rows = tuple(_row({**common, **row}) for row in content["rows"])
        table = PublishedTable(content["source"], int(content["table"]), tuple(content["columns"]), rows)
        unit = content["unit"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: expected source, table, unit, columns and rows with values: {error!r}"
        ) from error
    wrong = [labels for labels, values in rows if len(values) != len(table.columns) or "method" not in labels]
    if wrong or unit != "percent":
        raise InputError(
            f"{path}: expected a method and {len(table.columns)} values in percent per row, got {wrong}"
        )
    return table


def _row(row: Mapping[str, Any]) -> tuple[dict[str, str], tuple[float, ...]]:
    labels = {name: str(label) for name, label in row.items() if name != "values"}
    return labels, tuple(float(value) for value in row["values"])
