"""What an import pulls in: nothing that only some users need."""

import subprocess
import sys

import pytest

LATE = ("datasets", "pandas", "lm_eval", "openai", "deepspeed", "bitsandbytes", "ray", "nbformat", "IPython")
"""Packages of the extras, and those that take a second and serve some commands only."""


def imported(code: str) -> set[str]:
    """The modules that are loaded at the end of a program of its own, beyond those of its foundations."""
    foundations = "import sys, torch, lightning, transformers, peft; before = set(sys.modules)"
    program = f"{foundations}\n{code}\nprint(*sorted(set(sys.modules) - before))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240, check=True)
    return set(run.stdout.splitlines()[-1].split())


HELP = """
from svd_lightning.cli import main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
"""


@pytest.mark.parametrize("code", ["import svd_lightning", HELP], ids=["import", "help"])
def test_only_what_everyone_needs_is_imported(code):
    found = imported(code)
    assert any(name.startswith("svd_lightning.") for name in found)
    assert not found.intersection(LATE), found.intersection(LATE)
