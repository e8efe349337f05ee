"""Run the stages of a sweep, several at once, each in its own process, so that a sweep can be resumed."""

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from svd_lightning.commands.sweep.stages import RECEIPT, Stage
from svd_lightning.errors import InputError
from svd_lightning.files import write_json
from svd_lightning.signals import ONE_STOP, Stopped

PROGRAM = (sys.executable, "-m", "svd_lightning")
LOG = "log.txt"
"""The file in each stage's folder with what it printed."""
_PATIENCE = 30
"""Seconds to wait for an interrupted process before it is killed."""
_USAGE = 2
"""Exit status of the command line for options that it does not know."""


@dataclass(frozen=True)
class Failure:
    """A stage that failed; the next run of the sweep repeats it."""

    stage: Stage
    reason: str
    """The last line that it printed."""

    def __str__(self) -> str:
        return f"{self.stage.folder}: {self.reason} (see {self.stage.partial / LOG})"


def run_all(
    chains: Sequence[Sequence[Stage]],
    *,
    jobs: int,
    on_end: Callable[[Stage, Failure | None], None],
    program: Sequence[str] = PROGRAM,
) -> list[Failure]:
    """Run chains of stages, those of one chain one after another; finished stages are left as they are.

    A stage is skipped if a stage that it needs failed. SIGTERM and Ctrl-C are passed on to the running processes,
    whose end is waited for; a second one kills them. Does not work in notebooks, which run an event loop: use the
    command there.

    Args:
        chains: stages in order.
        jobs: how many chains run at once; they share the devices.
        on_end: called with each stage that has ended, and its failure or None.
        program: the command that a stage's arguments are added to.

    Returns:
        The failures.

    Raises:
        InputError: if a finished folder holds a run with other settings, or a command has unknown options.
        Stopped: after a signal.
    """
    unfinished = [[stage for stage in chain if not stage.done] for chain in chains]
    return asyncio.run(_run_chains(unfinished, jobs, on_end, program))


async def _run_chains(
    chains: Sequence[Sequence[Stage]],
    jobs: int,
    on_end: Callable[[Stage, Failure | None], None],
    program: Sequence[str],
) -> list[Failure]:
    failures: list[Failure] = []
    slots = asyncio.Semaphore(jobs)

    async def run_chain(chain: Sequence[Stage]) -> None:
        async with slots:
            for stage in chain:
                if stage.needs is not None and not stage.needs.folder.exists():
                    continue
                failure = await _run(stage, program)
                failures.extend([failure] if failure else [])
                on_end(stage, failure)

    tasks = [asyncio.create_task(run_chain(chain)) for chain in chains]
    heard: list[tuple[signal.Signals, float]] = []

    def hear(sign: signal.Signals) -> None:
        heard.append((sign, time.monotonic()))
        if len(heard) == 1 or heard[-1][1] - heard[0][1] > ONE_STOP:
            _cancel(tasks)

    for sign in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(sign, hear, sign)
    _, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    _cancel(others)
    await asyncio.wait(tasks)
    errors = [error for task in tasks if not task.cancelled() and (error := task.exception())]
    if errors:
        raise errors[0]
    if heard:
        raise Stopped(heard[0][0])
    return failures


def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    """End the process of each; a second time kills it."""
    for task in tasks:
        task.cancel()


async def _run(stage: Stage, program: Sequence[str]) -> Failure | None:
    """Run a stage in its partial folder, which gets its final name in one step if all went well."""
    shutil.rmtree(stage.partial, ignore_errors=True)  # what an interrupted or failed run left
    stage.partial.mkdir(parents=True)
    log = stage.partial / LOG
    with log.open("w", encoding="utf-8") as output:
        status = await _status([*program, *stage.arguments], output.fileno())
    if status == 0:
        finish(stage)
        return None
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    reason = next(filter(None, reversed(lines)), f"ended with status {status}")
    if status == _USAGE:
        raise InputError(f"{reason.removeprefix('error: ')} (the command was: {stage})")
    return Failure(stage, reason)


def finish(stage: Stage) -> None:
    """Move the results of a stage to its folder, with the receipt."""
    write_json(stage.partial / RECEIPT, {"command": str(stage), "digest": stage.digest})
    os.replace(stage.partial, stage.folder)


async def _status(command: Sequence[str], output: int) -> int:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=asyncio.subprocess.STDOUT
    )
    try:
        return await process.wait()
    except asyncio.CancelledError:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _PATIENCE)
        except (asyncio.TimeoutError, asyncio.CancelledError):
            process.kill()
            await process.wait()
        raise
