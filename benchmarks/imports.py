"""What importing all names of svd_lightning adds to importing what it stands on, by `python -X importtime`.

    python benchmarks/imports.py [--repeats 5]

The self times of all modules are added up; each repeat starts two fresh interpreters, one after the other.
"""

import argparse
import statistics
import subprocess
import sys

BASELINE = "import torch, lightning, transformers, peft"
OURS = "from svd_lightning import *"


def import_seconds(statement: str) -> float:
    """Sum of the self times of every module that a statement imports, in seconds."""
    command = [sys.executable, "-X", "importtime", "-c", statement]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()
    rows = [line.removeprefix("import time:").split("|")[0].strip() for line in lines if "|" in line]
    return sum(int(row) for row in rows if row.isdigit()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    pairs = [(import_seconds(BASELINE), import_seconds(OURS)) for _ in range(repeats)]
    ratio = statistics.median(ours / baseline for baseline, ours in pairs)
    seconds = [statistics.median(column) for column in zip(*pairs, strict=True)]
    print(f"{BASELINE}: {seconds[0]:.2f} s   {OURS}: {seconds[1]:.2f} s   ratio {ratio:.3f} (median of {repeats})")


if __name__ == "__main__":
    main()
