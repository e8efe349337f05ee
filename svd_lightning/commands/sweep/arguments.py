"""`svd-lightning sweep` on the command line."""

import argparse
from collections.abc import Sequence
from functools import partial

from svd_lightning.commands.sweep.cells import Override
from svd_lightning.commands.sweep.command import sweep
from svd_lightning.errors import InputError

_ABOUT = """Run grids of warm starts and their evaluations, and tabulate what they measured beside published
figures. Every other option, such as --model.backbone.name_or_path PATH or --data.limit 100, goes to
`svd-lightning fit` of every warm start, --judge and its options to `svd-lightning judge`. Runs that ended well are
not run again; the same command tries the others once more."""


def main(arguments: Sequence[str]) -> str | None:
    """Run grids of warm starts and evaluations, and tabulate them beside published figures.

    Returns what to say where some of the runs failed.
    """
    given, rest = _parser().parse_known_args(arguments)
    overrides = as_overrides(rest)
    run = partial(sweep, only=given.only, output=given.output, jobs=given.jobs, dry_run=given.dry_run)
    failures = []
    try:
        for config in given.configs:
            failures += run(config, overrides=overrides).failures
    except KeyboardInterrupt:
        return "interrupted: the same command goes on with what is not done"
    listed = "".join(f"\n  {failure}" for failure in failures)
    return f"error: {len(failures)} runs failed; the same command tries them again:{listed}" if failures else None


def as_overrides(words: Sequence[str]) -> list[Override]:
    """`--option value` and `--option=value`, in order.

    >>> as_overrides(["--trainer.max_epochs", "2", "--model.steering.penalty=-1"])
    [('trainer.max_epochs', '2'), ('model.steering.penalty', '-1')]

    Raises:
        InputError: for a word that is no option, or an option without a value.
    """
    found, left = [], iter(words)
    for word in left:
        option, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            raise InputError(f"sweep: expected --option value after the files, got {word!r}")
        if not equals and (value := next(left, "")) == "":
            raise InputError(f"sweep: expected a value after {word}, got nothing")
        found.append((option, value))
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("svd-lightning sweep", description=_ABOUT, allow_abbrev=False)
    parser.add_argument(
        "configs", nargs="+", metavar="FILE", help="sweep file, such as configs/experiment/table1.yaml"
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="AXIS=LABEL,…",
        help="run a part of the grid, such as peft=lora,ia3; once for each axis",
    )
    parser.add_argument("--output", help="folder for runs and tables (default: runs/ and the file's name)")
    parser.add_argument(
        "--jobs", type=int, default=1, help="warm starts at once; they share the devices (default: 1)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands instead of running them")
    return parser
