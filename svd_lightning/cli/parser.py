"""The parser of every verb: its errors take one line."""

import os
import re
from typing import NoReturn

from jsonargparse import ArgumentParser

TRACEBACK = "SVD_LIGHTNING_TRACEBACK"
"""If this environment variable is set, bad input ends in a traceback."""

_MISSPELT = re.compile(
    r'^Parser key "(?P<key>[^"]+)".*Problem with given class_path \'(?P<kind>[^\']+)\': '
    r"Option '(?P<option>[^']+)' is not accepted"
)
"""Matches jsonargparse's message of many lines about an option that a class does not have."""


class OneLineParser(ArgumentParser):
    """Parses options; errors take one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and exit, as for every other bad input; `--help` shows the usage."""
        if not self.exit_on_error or os.environ.get(TRACEBACK):
            super().error(message, ex)
        program = getattr(ex, "subcommand_parser", self).prog.replace(" [options]", "")
        line = " ".join(message.split())
        if found := _MISSPELT.match(line):
            line = f"{found['key']}.{found['option']}: not an option of {found['kind']}"
        self.exit(2, f"error: {line}; see {program} --help\n")
