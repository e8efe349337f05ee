"""Replies while they are written: as events, or whole, to clients that may go away (extra `serve`)."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from svd_lightning.commands.serve.answer import Answer, Piece
from svd_lightning.commands.serve.line import ClosedError, Line
from svd_lightning.commands.serve.replies import Form, Json, problem
from svd_lightning.errors import InputError, LogitsError

GONE = 499
"""The status for the log where a client has gone away."""
STOPPING = "the server stops"
_READING_SECONDS = 60.0
"""How long a client may take to read a stream after the time for its answer."""


@dataclass
class Reply:
    """The answers to one request, while they are written."""

    answers: list[Answer]
    arriving: asyncio.Queue[Piece]
    line: Line
    deadline: float
    """By the clock of the event loop."""

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yield what is written, as it comes, until all answers have ended.

        Raises:
            HTTPException: if an answer fails, time is up, or the server stops.
        """
        left = len(self.answers)
        while left:
            rest = self.deadline - asyncio.get_running_loop().time()
            try:
                piece = await asyncio.wait_for(self.arriving.get(), rest)
            except asyncio.TimeoutError:
                raise HTTPException(504, "the answer took too long; ask for less, or try again later") from None
            if isinstance(piece.problem, InputError):
                status = 500 if isinstance(piece.problem, LogitsError) else 400
                raise HTTPException(status, str(piece.problem))
            if isinstance(piece.problem, ClosedError):
                raise HTTPException(503, STOPPING)
            if piece.problem is not None:
                raise HTTPException(500, "the model failed; the server's log says why")
            left -= piece.finish is not None
            yield piece

    def leave(self) -> None:
        """Free the places of all answers; what is not written yet is given up."""
        self.line.leave(self.answers)


class Events(StreamingResponse):
    """Server-sent events; however the stream ends, the answers leave the line."""

    def __init__(self, reply: Reply, form: Form, *, with_usage: bool) -> None:
        super().__init__(self._events(reply, form, with_usage), media_type="text/event-stream")
        self._reply = reply
        self.headers["Cache-Control"] = "no-store"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with anyio.CancelScope(deadline=self._reply.deadline + _READING_SECONDS):
                await super().__call__(scope, receive, send)
        finally:
            self._reply.leave()

    async def _events(self, reply: Reply, form: Form, with_usage: bool) -> AsyncIterator[str]:
        begun: set[int] = set()
        try:
            async for piece in reply.pieces():
                yield _event(form.chunk(piece, first=piece.choice not in begun))
                begun.add(piece.choice)
        except HTTPException as error:
            yield _event(problem(error.status_code, error.detail))
            return
        if with_usage:
            yield _event(form.last_chunk(reply.answers))
        yield "data: [DONE]\n\n"


async def whole(request: Request, reply: Reply, form: Form) -> Response:
    """Return the whole reply once it is written, unless the client goes away before."""
    tasks = [asyncio.create_task(_collected(reply)), asyncio.create_task(_disconnected(request))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            return Response(status_code=GONE)
        return JSONResponse(form.whole(await tasks[0], reply.answers))
    finally:
        for task in tasks:
            task.cancel()
        reply.leave()


async def _collected(reply: Reply) -> list[list[Piece]]:
    pieces: list[list[Piece]] = [[] for _ in reply.answers]
    async for piece in reply.pieces():
        pieces[piece.choice].append(piece)
    return pieces


async def _disconnected(request: Request) -> list[list[Piece]]:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    return []


def _event(content: Json) -> str:
    return f"data: {json.dumps(content)}\n\n"
