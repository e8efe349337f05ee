"""An inspection as one HTML page without network, and with no script but its own."""

import base64
import hashlib
from pathlib import Path

from svd_lightning.commands.inspect.inspection import Inspection
from svd_lightning.commands.inspect.views import TEMPLATES

_SCRIPT = Path(__file__).with_name("page.js").read_text(encoding="utf-8")


def page(found: Inspection, *, name: str = "") -> str:
    """Return the whole page of an inspection.

    Args:
        found: the inspection.
        name: of what was inspected, such as the run's folder.
    """
    return TEMPLATES.get_template("page.html").render(
        found=found,
        name=name,
        script=_SCRIPT,
        digest=base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode(),
    )
