"""Starting the processes of a job, and reading what they found."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.chain import ROOT
from tests.distributed.namespaces import Node
from tests.processes import environment, run_module

needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="the extra `deepspeed` is missing")
ZERO2, ZERO3 = (pytest.param(name, marks=needs_deepspeed) for name in ("zero2", "zero3"))
SPREAD = ("ddp", "fsdp", "fsdp2", ZERO2, ZERO3)
"""Every strategy of several processes, by the names of `ranks.new_strategy`."""
CHAIN = ("fit", "resume", "validate", "test", "predict")


def write_job(folder: Path, diaries: Path, strategy: str, *verbs: str, **options: Any) -> Path:
    """A file that says what to run."""
    folder.mkdir(parents=True, exist_ok=True)
    processes = 1 if strategy == "single" else 2
    job = {"processes": processes, "verbs": verbs or CHAIN, "strategy": strategy, "accelerator": "cpu", **options}
    path = folder / "job.json"
    path.write_text(json.dumps({**job, "folder": str(folder), "diaries": str(diaries)}))
    return path


def launch(job: Path, *, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    """One process, or several of one node, by torchrun or by Lightning's own launcher."""
    settings = json.loads(job.read_text())
    processes = settings["processes"] if settings.get("launcher") != "lightning" else 1
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return subprocess.run(
        [sys.executable, *(torchrun if processes > 1 else []), "-m", "tests.distributed.ranks", str(job)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def results(job: Path, *, timeout: float = 280) -> list[dict[str, Any]]:
    """What each process found, by rank; forked, which is faster than `launch`."""
    processes = json.loads(job.read_text())["processes"]
    run_module("tests.distributed.ranks", str(job), processes=processes, timeout=timeout)
    return read_results(job)


def torchrun_node(
    job: Path, rank: int, *, port: int = 29577, first: str = "127.0.0.1", node: Node | None = None
) -> subprocess.Popen[str]:
    """The agent of one of two nodes, with one process; this machine plays both.

    Args:
        job: of `write_job`.
        rank: of the node.
        port: where the nodes find each other, on the node at the address `first`.
        first: that address.
        node: the namespace to run in, if it is not this machine's own.
    """
    place = [f"--master_addr={first}", f"--master_port={port}"]
    where = ["--nnodes=2", f"--node_rank={rank}", "--nproc_per_node=1", *place]
    command = [sys.executable, "-m", "torch.distributed.run", *where, "-m", "tests.distributed.ranks", str(job)]
    return subprocess.Popen(
        command if node is None else [*node.inside, *command],
        cwd=ROOT,
        env=environment() if node is None else {**environment(), "GLOO_SOCKET_IFNAME": node.interface},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_results(job: Path) -> list[dict[str, Any]]:
    """What each process has left."""
    return [torch.load(path, weights_only=False) for path in sorted(job.parent.glob("FOUND-*.pt"))]
