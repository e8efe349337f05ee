"""An inspection as one HTML page that needs nothing else: no network, and no script but its own."""

import base64
import hashlib
from html import escape
from pathlib import Path
from string import Template

from svd_lightning.commands.inspect.inspection import Inspection
from svd_lightning.commands.inspect.views import heat_css, legend, panel, positions_table, token_tabs
from svd_lightning.report import canvas

_HERE = Path(__file__).parent
_PAGE = Template((_HERE / "page.html").read_text(encoding="utf-8"))
_STYLE = Template((_HERE / "page.css").read_text(encoding="utf-8"))
_SAME = '<dd class="same">the same</dd>'
_SCRIPT = (_HERE / "page.js").read_text(encoding="utf-8")


def page(found: Inspection, *, name: str = "") -> str:
    """The whole page.

    Args:
        found: of `inspect_prompt`.
        name: what was inspected, such as the run's folder.
    """
    colours = {name: canvas.variable(getattr(canvas, name.upper())) for name in ("ink", "muted", "grid", "orange")}
    places = list(zip(found.positions, found.pieces, strict=True))
    panels = (panel(n, position, names, masked=found.masked) for n, (position, names) in enumerate(places))
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    return _PAGE.substitute(
        style=_STYLE.substitute(colours, scheme=canvas.scheme_css(), heat=heat_css()),
        digest=digest,
        script=_SCRIPT,
        name=escape(name),
        headline=_headline(found),
        shift=f"{found.mean_shift:.3f}",
        steering=escape(found.steering),
        decoding=escape(found.decoding),
        notes="".join(f'<p class="note">{escape(note)}</p>' for note in found.notes),
        prompt=escape(found.prompt),
        legend=legend(),
        tokens=token_tabs(found.positions, found.pieces),
        panels="".join(panels),
        texts=_texts(found),
        table=positions_table(found.positions, found.pieces, masked=found.masked, caption=found.summary),
    )


def _headline(found: Inspection) -> str:
    tokens = len(found.positions)
    count = f"{found.flips} of {tokens} token{'' if tokens == 1 else 's'}"
    return f"Steering changed the first choice at {count}"


def _texts(found: Inspection) -> str:
    if not found.alternatives:
        return ""
    texts = {"steered": found.completion, **found.alternatives}
    entries = "".join(
        f"<dt>{escape(name)}</dt>"
        + (f"<dd>{escape(text)}</dd>" if name == "steered" or text != found.completion else _SAME)
        for name, text in texts.items()
    )
    return f'<h2>What each of them writes</h2><dl class="texts">{entries}</dl>'
