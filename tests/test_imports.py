"""What an import pulls in: nothing that only some users need."""

import subprocess
import sys
from pathlib import Path

import pytest

import svd_lightning
from tests.processes import exit_status, fork

LATE = ("datasets", "pandas", "lm_eval", "openai", "deepspeed", "bitsandbytes", "ray", "nbformat", "IPython")
"""Packages of the extras, and those that take a second and serve some commands only."""
HEAVY = ("torch", "lightning", "transformers", "peft", "jsonargparse", "rich", "numpy", "matplotlib")


def show_imports(found: Path) -> None:
    """Run in a process that has imported the command line and the chain of the tests, no more."""
    found.write_text(" ".join(sys.modules))


def test_only_what_everyone_needs_is_imported(tmp_path):
    """By the package and by its foundations."""
    assert exit_status(fork(show_imports, tmp_path / "found")) == 0
    found = set((tmp_path / "found").read_text().split())
    assert "svd_lightning.module" in found
    assert not found.intersection(LATE), found.intersection(LATE)


@pytest.mark.parametrize("given", ["--help", "--version", "tset", "fit --help", "plan --help"])
def test_help_imports_nothing_heavy(given):
    program = (
        "import sys\n"
        "from svd_lightning.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        f"finally:\n    print(*sys.modules.keys() & set({HEAVY}), 'end')"
    )
    done = subprocess.run([sys.executable, "-c", program, *given.split()], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "end", done.stdout


def test_public_names_are_imported_when_asked_for():
    assert all(getattr(svd_lightning, name).__name__ == name for name in svd_lightning.__all__)
    with pytest.raises(AttributeError, match="'svd_lightning' has no attribute 'nothing'"):
        svd_lightning.nothing  # noqa: B018
