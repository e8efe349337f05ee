"""The server's side of sockets and signals (extra `serve`)."""

import asyncio
import ipaddress
import socket
from collections.abc import Callable

import uvicorn

from svd_lightning.commands.serve.app import Service
from svd_lightning.commands.serve.connection import Connection
from svd_lightning.errors import explained

_CONNECTIONS = 1024
_CLOSING_SECONDS = 5


def bound(host: str, port: int) -> socket.socket:
    """Take the port before anything slow happens; nobody can connect until the server listens.

    Raises:
        InputError: if it cannot be had.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with explained((OSError, OverflowError), lambda reason: f"port: cannot listen on {host}:{port}: {reason}"):
        listener.bind((host, port))
    return listener


def is_local(host: str) -> bool:
    """Return whether only programs of this machine reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Server(uvicorn.Server):
    """Serves until a signal; the answers that have begun then get some time to end, and are refused after it.

    Args:
        service: what answers.
        announce: called with the address once it can be asked.
        grace: seconds for answers that have begun.
    """

    def __init__(self, service: Service, announce: Callable[[str], object], *, grace: int = 10) -> None:
        super().__init__(
            uvicorn.Config(
                service.app(),
                http=Connection,
                ws="none",
                log_config=None,
                access_log=False,
                lifespan="on",
                server_header=False,
                limit_concurrency=_CONNECTIONS,
                timeout_graceful_shutdown=grace + _CLOSING_SECONDS,
            )
        )
        self._service, self._announce, self._grace = service, announce, grace

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where.

        Raises:
            InputError: if a server that loaded at the same time was faster.
        """
        try:
            with explained((OSError,), lambda reason: f"port: cannot listen on it: {reason}"):
                await super().startup(sockets)
            if self.started and sockets:
                host, port = sockets[0].getsockname()[:2]
                self._announce(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except Exception:
            await self.lifespan.shutdown()  # uvicorn would break it off, which logs a traceback
            raise

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop: also if nothing writes answers any more."""
        return await super().on_tick(counter) or not self._service.engine.alive

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, and wait for answers."""
        timer = asyncio.get_running_loop().call_later(self._grace, self._service.line.close)
        await super().shutdown(sockets)
        timer.cancel()
