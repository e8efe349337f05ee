"""Help that needs no parser."""

from collections.abc import Sequence
from importlib.metadata import version

from svd_lightning.cli.verbs import VERBS

_HEAD = """Steering Vector Decoding: fine-tune a PEFT adapter briefly, calibrate how far to push its direction, and
decode with it.

usage: svd-lightning VERB …
"""


def short_help(given: Sequence[str]) -> str | None:
    """Return the help or version that these arguments ask for; None if they ask for neither, or for a verb's."""
    first = given[0] if given else ""
    if first == "--version":
        return f"svd-lightning {version('svd-lightning')}"
    return _overview() if first in ("-h", "--help", "--help.all") else None


def _overview() -> str:
    lines = [_HEAD]
    for name, verb in VERBS.items():
        lines += [f"  {name:<18}{verb.about}", f"{'':20}svd-lightning {verb.example}"]
    return "\n".join(lines)
