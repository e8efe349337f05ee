"""Two network namespaces joined by a cable: two machines, as far as sockets can tell."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Node(NamedTuple):
    """One of the two."""

    namespace: str
    address: str
    interface: str

    @property
    def inside(self) -> list[str]:
        """What to put before a command that is to run there."""
        return ["ip", "netns", "exec", self.namespace]


def reason_against() -> str | None:
    """Why namespaces cannot be made here, if so."""
    if shutil.which("ip") is None:
        return "iproute2 (the command `ip`) is not installed"
    name = f"svd-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"network namespaces are not permitted here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=False)
    return None


@contextmanager
def two_nodes() -> Iterator[list[Node]]:
    """Two namespaces with an address each, that reach one another and nothing else."""
    number = os.getpid()
    nodes = [Node(f"svd-{number}-{i}", f"10.254.77.{i + 1}", f"v{number}n{i}") for i in (0, 1)]
    try:
        for node in nodes:
            _ip("netns", "add", node.namespace)
        _ip("link", "add", nodes[0].interface, "type", "veth", "peer", "name", nodes[1].interface)
        for node in nodes:
            _ip("link", "set", node.interface, "netns", node.namespace)
            _ip("-n", node.namespace, "addr", "add", f"{node.address}/24", "dev", node.interface)
            for interface in (node.interface, "lo"):
                _ip("-n", node.namespace, "link", "set", interface, "up")
        yield nodes
    finally:
        for node in nodes:  # the cable goes with its ends
            subprocess.run(["ip", "netns", "del", node.namespace], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
