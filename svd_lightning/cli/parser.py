"""The parser of every verb: its errors take one line, and say what was meant."""

import os
from typing import NoReturn

from jsonargparse import ArgumentParser

from svd_lightning.cli.spelling import in_one_line

TRACEBACK = "SVD_LIGHTNING_TRACEBACK"
"""If this environment variable is set, bad input ends in a traceback."""


class OneLineParser(ArgumentParser):
    """Parses options; errors take one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and exit, as for every other bad input; `--help` shows the usage."""
        if not self.exit_on_error or os.environ.get(TRACEBACK):
            super().error(message, ex)
        parser: ArgumentParser = getattr(ex, "subcommand_parser", self)
        program = parser.prog.replace(" [options]", "")
        line = in_one_line(message, parser)
        self.exit(2, f"error: {line}\n" if line.endswith("?") else f"error: {line}; see {program} --help\n")
