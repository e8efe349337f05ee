"""Clients that keep the server waiting, byte by byte, over real sockets."""

import socket
import time

import pytest

from svd_lightning.commands.serve import connection
from tests.commands.serve.serving import NAME, health, post, serving

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
WHOLE = HEAD + b"Content-Length: 2\r\n\r\n{}"


@pytest.fixture(scope="module")
def address(module):
    with serving(module, key="secret") as address:
        yield address


@pytest.fixture
def short(monkeypatch):
    """Clients have little time."""
    monkeypatch.setattr(connection, "SECONDS", 0.3)


def trickle(address, begun):
    """Send these bytes, then one more every now and then until the server breaks off; return what it said."""
    host, port = address.split(":")
    said = b""
    with socket.create_connection((host, int(port)), timeout=60) as client:
        client.sendall(begun)
        client.settimeout(0.05)
        for _ in range(600):
            try:
                if not (more := client.recv(65536)):
                    return said
                said += more
            except TimeoutError:
                pass
            except ConnectionError:
                return said
            try:
                client.sendall(b"x")
            except ConnectionError:
                return said
    raise AssertionError("the server waits for ever")


@pytest.mark.parametrize(
    ("begun", "status"),
    [
        (b"", b""),
        (HEAD, b""),
        (HEAD + b"Content-Length: 1000000\r\n\r\n", b"401"),  # a reply before the body
        (WHOLE + HEAD, b"401"),  # a second head on the same connection
    ],
    ids=["nothing", "half a head", "body after the reply", "second head"],
)
def test_who_sends_too_slowly_is_left(begun, status, address, short):
    assert status in trickle(address, begun)[:20]
    assert health(address)["status"] == "ok"


def test_an_answer_may_take_longer(module, monkeypatch):
    """The clock stands while the server itself is at work."""

    class Slow:
        calibrated, reads_base, forbids = True, False, False

        def __call__(self, tuned, base):
            time.sleep(0.4)
            return tuned

    monkeypatch.setattr(connection, "SECONDS", 0.1)
    monkeypatch.setattr(module, "steering", Slow())
    with serving(module) as address:
        status, said = post(address, "/v1/completions", {"model": NAME, "prompt": "a", "max_tokens": 2})
    assert (status, "choices" in said) == (200, True)
