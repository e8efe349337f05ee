"""Processes of their own for tests, forked from one that has imported the package: an import takes seconds."""

import atexit
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch
from torch import distributed

from tests.chain import ROOT

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.preload"])


def environment() -> dict[str, str]:
    """One thread, no network, no terminal width of the caller's."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}


def fork(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Start a process that calls an importable function; nothing of this process's state is in it."""
    process = _FORKS.Process(target=target, args=arguments)
    with mock.patch.dict(os.environ, environment()):  # inherited by the first one, from which all are forked
        process.start()
    return process


def fork_module(*arguments: str, log: Path, **variables: str) -> BaseProcess:
    """Start `python -m ARGUMENTS` with these environment variables more; what it prints goes to the log.

    The path of a script in place of the module's name runs the script.
    """
    return fork(_run_module, arguments, {**environment(), **variables}, log)


def _run_module(arguments: tuple[str, ...], variables: Mapping[str, str], log: Path) -> None:
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(ROOT)
    with log.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    # a shell ignores Ctrl-C on behalf of what it starts in the background, and Python then takes that over
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = list(arguments)
    try:
        if os.sep in arguments[0]:
            runpy.run_path(arguments[0], run_name="__main__")
        else:
            runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out


def exit_status(*processes: BaseProcess, timeout: float = 250) -> int:
    """Wait for all to end, or for one that fails. Returns 0, or the status of a failed one, the others killed.

    Raises:
        TimeoutError: if they have not ended then.
    """
    running = list(processes)
    try:
        while running:
            ended = wait([process.sentinel for process in running], timeout)
            if not ended:
                raise TimeoutError(f"{len(running)} processes have not ended in {timeout} seconds")
            for process in [process for process in running if process.sentinel in ended]:
                running.remove(process)
                process.join()
                if process.exitcode:
                    return process.exitcode
        return 0
    finally:
        for process in running:
            process.kill()
            process.join()


def run_module(*arguments: str, timeout: float = 250, processes: int = 1) -> str:
    """Run a module in processes of its own, which must end well. Returns what they printed, in their order.

    Args:
        arguments: name of the module, and what follows it on its command line.
        timeout: in seconds.
        processes: how many; several find each other, as those that torchrun starts.
    """
    with TemporaryDirectory() as folder:
        logs = [Path(folder) / str(rank) for rank in range(processes)]
        where = places(processes) if processes > 1 else [{}]
        started = [fork_module(*arguments, log=log, **place) for log, place in zip(logs, where, strict=True)]
        status = exit_status(*started, timeout=timeout)
        text = "\n".join(log.read_text() for log in logs if log.exists())
    assert status == 0, text[-8000:]
    return text


def places(processes: int) -> list[dict[str, str]]:
    """What torchrun tells each process in its environment."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    world = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "GROUP_RANK": "0"}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    return [{**world, **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def interrupted_command(until: Iterator[bool], sign: signal.Signals, *arguments: str, log: Path) -> int:
    """Exit status of `svd-lightning …` in a process of its own, sent a signal as soon as `until` yields true."""
    process = fork_module("svd_lightning", *arguments, log=log)
    try:
        for _ in range(6000):
            if next(until) or not process.is_alive():
                break
            time.sleep(0.02)
        assert process.is_alive(), log.read_text()
        assert process.pid is not None
        os.kill(process.pid, sign)
        process.join(60)
        assert process.exitcode is not None, "it goes on"
        return process.exitcode
    finally:
        process.kill()
        process.join()


def run_both(measure: Callable[[int], Any], folder: Path) -> list[Any]:
    """What `measure(rank)` returns on each of two processes; it must be importable.

    Their default group has no backend for the CPU, as NCCL's has none: a collective of it that gets host memory or
    a Python object fails with torch's own error. It does not show host memory that is handed to a strategy.
    """
    status = exit_status(*(fork(_run, rank, measure, folder) for rank in (0, 1)), timeout=120)
    assert status == 0
    return [torch.load(_file(folder, rank), weights_only=False) for rank in (0, 1)]


def _run(rank: int, measure: Callable[[int], Any], folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "cuda:gloo",
        init_method=f"file://{folder / 'rendezvous'}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    try:
        torch.save(measure(rank), _file(folder, rank))
    finally:
        distributed.destroy_process_group()


def _file(folder: Path, rank: int) -> Path:
    return folder / f"rank{rank}.pt"
