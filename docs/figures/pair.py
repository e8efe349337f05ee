"""Writes a figure for light and dark pages."""

from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from svd_lightning.report.canvas import DARK


def save_pair(figure: Figure, folder: Path, name: str) -> None:
    """Write NAME-light.svg and NAME-dark.svg into a folder, the same bytes each time."""
    light, dark = folder / f"{name}-light.svg", folder / f"{name}-dark.svg"
    with rc_context({"svg.hashsalt": "svd-lightning"}):
        figure.savefig(light, transparent=True, metadata={"Date": None})
    text = light.read_text(encoding="utf-8")
    for colour, on_dark in DARK.items():
        text = text.replace(colour, on_dark)
    dark.write_text(text, encoding="utf-8")
