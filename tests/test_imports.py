"""What an import pulls in: nothing that only some users need."""

import subprocess
import sys

LATE = ("datasets", "pandas", "lm_eval", "openai", "deepspeed", "bitsandbytes", "ray", "nbformat", "IPython")
"""Packages of the extras, and those that take a second and serve some commands only."""

PROGRAM = """
import sys, torch, lightning, transformers, peft
before = set(sys.modules)
import svd_lightning
package = set(sys.modules)
from svd_lightning.cli import main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
print()
print(*sorted(package - before))
print(*sorted(set(sys.modules) - before))
print("deepspeed" in before)
"""


def test_only_what_everyone_needs_is_imported():
    """By the package and then by its help, beyond its foundations, which leave DeepSpeed alone too."""
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=240, check=True)
    *_, package, shown, deepspeed = run.stdout.splitlines()
    for found in (set(package.split()), set(shown.split())):
        assert "svd_lightning.module" in found
        assert not found.intersection(LATE), found.intersection(LATE)
    assert deepspeed == "False"
