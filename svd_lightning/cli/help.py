"""Help and version, without the imports that a parser needs."""

from collections.abc import Sequence
from importlib.metadata import version

from svd_lightning.cli.function_help import function_help
from svd_lightning.cli.lightning_help import SHORT
from svd_lightning.cli.verbs import COMMANDS, VERBS
from svd_lightning.commands.run.request import help_text

_HEAD = """Steering Vector Decoding: fine-tune a PEFT adapter briefly, calibrate how far to push its direction, and
decode with it.

usage: svd-lightning VERB …       svd-lightning VERB --help       svd-lightning --version
"""

_COMPLETED = """In ~/.bashrc or ~/.zshrc:
  eval "$(svd-lightning completion bash)"
"""


def short_help(given: Sequence[str]) -> str | None:
    """Return the help or version that these arguments ask for; None if they ask for neither."""
    verb, *options = given or [""]
    if verb == "--version":
        return f"svd-lightning {version('svd-lightning')}"
    if verb in ("-h", "--help", "--help.all"):
        return _overview()
    if verb == "run" and {"-h", "--help", "--help.all"}.intersection(options):
        return help_text()
    if not {"-h", "--help"}.intersection(options):
        return None
    if verb in COMMANDS:
        return function_help(verb)
    if verb == "completion":
        return f"usage: svd-lightning completion bash | zsh\n\n{VERBS[verb].about}\n\n{_COMPLETED}"
    return _of_verb(verb) if verb in SHORT else None


def _overview() -> str:
    lines = [_HEAD]
    for name, verb in VERBS.items():
        lines += [f"  {name:<18}{verb.about}", f"{'':20}svd-lightning {verb.example}"]
    return "\n".join(lines)


def _of_verb(verb: str) -> str:
    run = "" if verb == "plan" else " [RUN]"
    lines = [f"usage: svd-lightning {verb}{run} [options]", "", VERBS[verb].about]
    lines += [] if verb == "plan" else ["RUN is a run folder: base, adapter, data and checkpoint come from it."]
    for group, options in SHORT[verb].groups.items():
        lines += ["", f"{group}:"]
        lines += [f"  {f'{option.name} {option.value}':<40} {option.about}" for option in options]
    lines += ["", "Examples:", *(f"  svd-lightning {example}" for example in SHORT[verb].examples)]
    return "\n".join(lines)
