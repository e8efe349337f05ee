"""`svd-lightning sweep`: run a grid, and make one table of its results."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from svd_lightning.commands.sweep.cells import Combination, Override, evaluations, warm_starts
from svd_lightning.commands.sweep.grid import Found, as_csv, as_markdown, rows
from svd_lightning.commands.sweep.published import PublishedTable, load_published
from svd_lightning.commands.sweep.results import measurements, strengths
from svd_lightning.commands.sweep.runner import Failure, run_all
from svd_lightning.commands.sweep.stages import Stage, stages
from svd_lightning.commands.sweep.sweep_file import Sweep, load_sweep
from svd_lightning.errors import InputError
from svd_lightning.files import write_text
from svd_lightning.signals import Stopped

_ABOUT = """Run grids of warm starts and their evaluations, and tabulate the results beside published figures.
Every other option, such as --model.backbone.name_or_path PATH or --data.limit 100, goes to `svd-lightning fit` of
every warm start, --judge and its options to `svd-lightning judge`. Finished runs are kept; the same command
repeats the failed ones."""


@dataclass(frozen=True)
class SweepResult:
    """Where the results of a sweep are, and what failed."""

    folder: Path
    """The folder with table.md, table.csv, and a folder for each warm start."""
    failures: list[Failure] = field(default_factory=list)
    """Stages that failed; the same command repeats them."""


def sweep(
    config: str,
    *,
    only: Sequence[str] = (),
    output: str | None = None,
    jobs: int = 1,
    dry_run: bool = False,
    overrides: Sequence[Override] = (),
) -> SweepResult:
    """Run a grid of warm starts and their evaluations, and tabulate them beside the published figures.

    Each run is a process of `svd-lightning` with its own run folder. Finished runs are kept, failed ones are
    repeated. The table has all results so far.

    Args:
        config: the sweep file, such as configs/experiment/table1.yaml.
        only: parts of the grid, such as model=Qwen2.5-7B or peft=lora,ia3.
        output: folder for runs and tables; null for runs/ and the file's name.
        jobs: how many warm starts run at once; they share the devices.
        dry_run: print the commands instead of running them.
        overrides: options of every warm start, which win over all files; those of judge go to the verb judge.

    Raises:
        InputError: for a wrong file, label or option, or a folder with other settings.
    """
    if jobs < 1:
        raise InputError(f"jobs: expected at least 1, got {jobs}")
    plan = load_sweep(Path(config))
    published = None if plan.paper is None else load_published(Path(plan.paper))
    chosen = _by_axis(only)
    asked = evaluations(plan, only=chosen)
    folder = Path("runs", plan.name) if output is None else Path(output).expanduser()
    judge = [option for option in overrides if option[0].split(".")[0] == "judge"]
    starts = warm_starts(plan, only=chosen, overrides=[option for option in overrides if option not in judge])
    chains = [[*stages(start, asked, plan.verbs, output=folder, judge=judge)] for start in starts]
    if dry_run:
        print(*(stage for chain in chains for stage in chain), sep="\n")
        return SweepResult(folder)
    failures = _run(chains, jobs)
    _tabulate(plan, starts, asked, published, folder)
    return SweepResult(folder, failures)


def main(arguments: Sequence[str]) -> str | None:
    """Run grids of warm starts and evaluations, and tabulate them beside published figures.

    Returns a message if runs failed.
    """
    given, rest = _parser().parse_known_args(arguments)
    overrides = as_overrides(rest)
    run = partial(sweep, only=given.only, output=given.output, jobs=given.jobs, dry_run=given.dry_run)
    failures = []
    try:
        for config in given.configs:
            failures += run(config, overrides=overrides).failures
    except Stopped as stop:
        stop.tell("finished runs are kept; the same command goes on from here")
        raise
    listed = "".join(f"\n  {failure}" for failure in failures)
    return f"error: {len(failures)} runs failed; the same command repeats them:{listed}" if failures else None


def as_overrides(words: Sequence[str]) -> list[Override]:
    """Return names and values of `--option value` and `--option=value`, in order.

    >>> as_overrides(["--trainer.max_epochs", "2", "--model.steering.penalty=-1"])
    [('trainer.max_epochs', '2'), ('model.steering.penalty', '-1')]

    Raises:
        InputError: for a word that is not an option, or an option without a value.
    """
    overrides, left = [], iter(words)
    for word in left:
        option, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            raise InputError(f"sweep: expected --option value after the files, got {word!r}")
        if not equals and (value := next(left, "")) == "":
            raise InputError(f"sweep: expected a value after {word}, got nothing")
        overrides.append((option, value))
    return overrides


def _by_axis(only: Sequence[str]) -> dict[str, list[str]]:
    """Read AXIS=LABEL,… as labels by axis."""
    chosen = {}
    for each in only:
        axis, equals, labels = each.partition("=")
        if not equals or not labels:
            raise InputError(f"only: expected AXIS=LABEL,… such as peft=lora,ia3, got {each!r}")
        chosen[axis] = labels.split(",")
    return chosen


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
        help="run a part of the grid, such as peft=lora,ia3; may be given once per axis",
    )
    parser.add_argument("--output", help="folder for runs and tables (default: runs/ and the file's name)")
    parser.add_argument(
        "--jobs", type=int, default=1, help="warm starts at once; they share the devices (default: 1)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands instead of running them")
    return parser


def _run(chains: Sequence[Sequence[Stage]], jobs: int) -> list[Failure]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("Runs", total=sum(map(len, chains)))
        progress.advance(bar, sum(stage.done for chain in chains for stage in chain))

        def on_end(stage: Stage, failure: Failure | None) -> None:
            progress.advance(bar)
            progress.console.print(
                f"{stage.folder}: {'done' if failure is None else failure.reason}", markup=False
            )

        return run_all(chains, jobs=jobs, on_end=on_end)


def _tabulate(
    plan: Sweep,
    starts: Sequence[Combination],
    asked: Sequence[Combination],
    published: PublishedTable | None,
    folder: Path,
) -> None:
    results = []
    for start in starts:
        for each in asked:
            place = folder / start.name / each.name
            results.append(Found(start, each, measurements(place), strengths(place, folder / start.name / "fit")))
    table = rows(plan, results)
    write_text(folder / "table.csv", as_csv(table, published))
    write_text(folder / "table.md", as_markdown(table, published))
    print(folder / "table.md")
