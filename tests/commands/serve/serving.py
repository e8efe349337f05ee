"""A real server on loopback, in a thread of the test's process, and clients of it."""

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import torch

from svd_lightning.commands.serve.app import Service
from svd_lightning.commands.serve.limits import Limits
from svd_lightning.commands.serve.listening import Server, bound
from svd_lightning.steering import UNSTEERED

NAME = "diaries"
LIMITS = Limits(prompt_tokens=64, new_tokens=100, answers=16)


class Address(str):
    """Host and port, with the server that is there."""

    server: Server

    def __new__(cls, place: str, server: Server) -> "Address":
        address = super().__new__(cls, place)
        address.server = server
        return address


@contextmanager
def serving(module: Any, **options: Any) -> Iterator[Address]:
    """Serve a run until the block ends; yields the address."""
    given = {"generation": {}, "batch_size": 4, "limits": LIMITS, "timeout": 60.0, **options}
    places: list[str] = []
    server = Server(Service.of(module, NAME, **given), places.append, grace=1)
    thread = threading.Thread(target=server.run, args=[[bound("127.0.0.1", 0)]])
    thread.start()
    wait_for(lambda: places or not thread.is_alive())
    try:
        yield Address(places[0], server)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def wait_for(happens: Any, seconds: float = 60) -> None:
    for _ in range(int(seconds / 0.01)):
        if happens():
            return
        time.sleep(0.01)
    raise TimeoutError


def client(address: str, **options: Any) -> openai.OpenAI:
    """A client that does not try again."""
    given = {"api_key": "none", "max_retries": 0, "timeout": 60, **options}
    return openai.OpenAI(base_url=f"http://{address}/v1", **given)


def post(address: str, path: str, body: bytes | dict[str, Any], **headers: str) -> tuple[int, str]:
    """Status and body of the reply to bytes that no client would send."""
    content = json.dumps(body).encode() if isinstance(body, dict) else body
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        sent = {
            "content-type": "application/json",
            **{name.replace("_", "-"): one for name, one in headers.items()},
        }
        connection.request("POST", path, content, sent)
        reply = connection.getresponse()
        return reply.status, reply.read().decode()
    finally:
        connection.close()


def health(address: str) -> dict[str, Any]:
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request("GET", "/health")
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


class Gate:
    """The base's distribution, which computes no token before it is opened; counts the rows it has seen."""

    calibrated = True
    forbids = False

    def __init__(self) -> None:
        self.open, self.entered, self.rows = threading.Event(), threading.Event(), 0

    def __call__(self, tuned: torch.Tensor, base: torch.Tensor | None) -> torch.Tensor:
        self.entered.set()
        assert self.open.wait(60)
        self.rows += len(tuned)
        return UNSTEERED["base"](tuned, base)
