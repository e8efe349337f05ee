"""What an import pulls in: nothing that only some users need."""

import sys
from pathlib import Path

from svd_lightning.cli import main
from tests.processes import exit_status, fork

LATE = ("datasets", "pandas", "lm_eval", "openai", "deepspeed", "bitsandbytes", "ray", "nbformat", "IPython")
"""Packages of the extras, and those that take a second and serve some commands only."""


def show_help(found: Path) -> None:
    """Run in a process that has imported the command line and the chain of the tests, no more."""
    try:
        main(["--help"])
    finally:
        found.write_text(" ".join(sys.modules))


def test_only_what_everyone_needs_is_imported(tmp_path):
    """By the package, by its foundations and by its help."""
    assert exit_status(fork(show_help, tmp_path / "found")) == 0
    found = set((tmp_path / "found").read_text().split())
    assert "svd_lightning.module" in found
    assert not found.intersection(LATE), found.intersection(LATE)
