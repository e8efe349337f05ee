"""Named colours, and figures as SVG that follows the page's light or dark scheme."""

import io
import math
import re

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, GRID = "#1f2933", "#66707d", "#dfe3e8"
BLUE, ORANGE, GREEN, PURPLE, TEAL, RED = "#1f6fb4", "#c8560a", "#2b8a57", "#7b4fb8", "#0f8a94", "#c0392b"

DARK = {
    INK: "#e6e9ee",
    MUTED: "#9aa5b1",
    GRID: "#333c47",
    BLUE: "#6cb3f0",
    ORANGE: "#ff9d57",
    GREEN: "#63c793",
    PURPLE: "#b79af0",
    TEAL: "#5bc8d2",
    RED: "#ff8a80",
}
"""Each colour on a dark page."""

_WIDTH = 4.4
_LINE = 48
"""Characters of a legend's line; the symbol of each label counts as four."""


def canvas(height: float, *, panels: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure as wide as a phone's screen, with panels one above the other on a common horizontal axis."""
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0].tolist()
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(MUTED)
        panel.tick_params(colors=MUTED, labelcolor=INK, labelsize=10)
        panel.grid(color=GRID, linewidth=0.8)
        panel.set_axisbelow(True)
    return figure, axes


def name_axes(axes: Axes, *, x: str = "", y: str = "") -> None:
    """Label the axes."""
    axes.set_xlabel(x, color=INK, fontsize=10)
    axes.set_ylabel(y, color=INK, fontsize=10)


def legend_below(figure: Figure) -> None:
    """Put a legend below the axes, in as many columns as its longest label allows."""
    labels = [label for axes in figure.axes for label in axes.get_legend_handles_labels()[1]]
    columns = min(3, max(1, _LINE // (4 + max(map(len, labels), default=0))))
    figure.legend(
        loc="outside lower center", ncols=columns, frameon=False, fontsize=10, labelcolor=INK, handletextpad=0.4
    )


def svg(figure: Figure) -> str:
    """Return the figure as an SVG element for an HTML page that defines `scheme_css`."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "svd-lightning"}):
        figure.savefig(buffer, format="svg", transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # numbered alike in every figure, and nothing refers to them
    for size in ("width", "height"):
        text = re.sub(rf'<svg ([^>]*?){size}="[^"]*" ?', r"<svg \1", text, count=1)
    for light in DARK:
        text = text.replace(light, f"var({variable(light)})")
    return text


def scheme_css() -> str:
    """Return the colours as CSS variables, for light and for dark pages."""
    light = " ".join(f"{variable(colour)}: {colour};" for colour in DARK)
    dark = " ".join(f"{variable(colour)}: {other};" for colour, other in DARK.items())
    return f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"


def variable(colour: str) -> str:
    """Return the name of a colour's CSS variable."""
    return f"--c{colour.lstrip('#')}"


def decades(far: float) -> list[float]:
    """Return 0 and at most four powers of ten on each side of it."""
    top = math.floor(math.log10(far) + 1e-9)
    powers = [10.0**power for power in range(0, top + 1, max(1, math.ceil((top + 1) / 3)))]
    return [*(-power for power in reversed(powers)), 0.0, *powers]


def decade_text(value: float) -> str:
    """Return a power of ten as an axis label, written out while that is short."""
    if abs(value) < 1e4:
        return f"{value:g}".replace("-", "−")
    return f"{'−' if value < 0 else ''}$10^{{{round(math.log10(abs(value)))}}}$"
