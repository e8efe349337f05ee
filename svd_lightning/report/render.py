"""Tables for terminal, page and Markdown, and the templates of pages."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from svd_lightning.report import canvas

_HERE = Path(__file__).parent
_COLOURS = ("INK", "MUTED", "GRID", "GREEN", "PURPLE", "ORANGE")


@dataclass(frozen=True)
class Row:
    """A row of a table; a line break in a cell stays one."""

    cells: tuple[str, ...]
    used: bool = False
    """Whether decoding uses it."""
    warning: str | None = None
    """Shown on the page only; on the terminal it is in the log."""


@dataclass(frozen=True)
class ReportTable:
    """A table that `rich` prints, jinja2 templates include, and `markdown` writes."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    """How to read it."""
    labels: int = 1
    """How many of the first columns name the row; a page puts them one below the other."""

    def __rich__(self) -> Table:
        table = Table(title=escape(self.title), title_justify="left", caption_justify="left")
        table.caption = escape(" ".join(self.notes)) or None
        for place, head in enumerate(self.heads):
            table.add_column(head, justify="left" if place < self.labels else "right", no_wrap="gain" in head)
        for row in self.rows:
            table.add_row(*map(Text, row.cells), style="bold" if row.used else None)
        return table

    def __html__(self) -> str:
        return templates(_HERE).get_template("table.html").render(table=self)

    def markdown(self) -> str:
        """Return the table as Markdown without its title, and the notes below it."""
        rows = [[*self.heads], ["---"] * len(self.heads)]
        for row in self.rows:
            first, *others = (cell.replace("|", "\\|").replace("\n", ", ") for cell in row.cells)
            rows.append([f"**{first}**" if row.used else first, *others])
        lines = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
        return "\n\n".join(part for part in (lines, " ".join(self.notes)) if part)


@cache
def templates(folder: Path) -> Environment:
    """Return an environment with a folder's templates and the report's, which escapes every value.

    Templates can use the colours of the figures by name, such as `ink`, and the `scheme` that defines them.
    """
    environment = Environment(
        loader=FileSystemLoader([folder, _HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        {name.lower(): f"var({canvas.variable(getattr(canvas, name))})" for name in _COLOURS}
    )
    environment.globals["scheme"] = canvas.scheme_css()
    return environment
