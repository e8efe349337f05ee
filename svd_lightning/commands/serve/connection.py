"""A connection whose client must do its part in time (extra `serve`)."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

SECONDS = 30.0
"""How long a client may take for a whole head, for a body that nobody reads, or to read the end of a reply."""


class Connection(H11Protocol):
    """Breaks off once its client has kept the server waiting too long, however busily it sends.

    uvicorn has no option for this: its keep-alive ends a connection on which nothing comes after a reply, and any
    byte stops that clock. While a request is answered the clock stands; whoever answers has limits of its own.
    """

    _clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock: a request must come."""
        super().connection_made(transport)
        self._restart()

    def data_received(self, data: bytes) -> None:
        """Stop the clock if these bytes complete the head of a request."""
        super().data_received(data)
        if self._answering:
            self._stop()

    def on_response_complete(self) -> None:
        """Start the clock again, unless the next request is here."""
        super().on_response_complete()
        if not self._answering:
            self._restart()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        super().connection_lost(exc)
        self._stop()

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _restart(self) -> None:
        self._stop()
        self._clock = self.loop.call_later(SECONDS, self.transport.abort)

    def _stop(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
