"""The server's side of HTTP (extra `serve`): routes, keys, time-outs, and clients that go away."""

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio import to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from svd_lightning.answering import decoding_options
from svd_lightning.commands.serve.answer import Answer, Piece
from svd_lightning.commands.serve.asking import Asking
from svd_lightning.commands.serve.engine import Engine
from svd_lightning.commands.serve.limits import Limits
from svd_lightning.commands.serve.line import FullError, Line
from svd_lightning.commands.serve.replies import Form, Json, problem
from svd_lightning.commands.serve.requests import ChatCompletions, Completions, read
from svd_lightning.commands.serve.requests import Request as Asked
from svd_lightning.decoding.generation import completed
from svd_lightning.errors import InputError
from svd_lightning.module import SteeredLanguageModel

BODY_BYTES = 2 * 2**20
"""The longest body of a request."""
_BODY_SECONDS = 30.0
_GONE = 499
"""The status for the log where a client has gone away."""
Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Service:
    """What answers the requests.

    Args:
        name: of the model.
        asking: makes answers of requests.
        line: where answers wait.
        engine: writes them.
        timeout: seconds that an answer may take, waiting included.
        key: what clients must send; None lets everyone in.
    """

    name: str
    asking: Asking
    line: Line
    engine: Engine
    timeout: float
    key: str | None = None
    _one_reader: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(1))

    @classmethod
    def of(
        cls,
        module: SteeredLanguageModel,
        name: str,
        *,
        generation: dict[str, Any],
        batch_size: int,
        limits: Limits,
        timeout: float,
        key: str | None = None,
    ) -> "Service":
        """Make what serves a run; arguments as of the class, and as the command takes them.

        Raises:
            InputError: for decoding options that cannot be served.
        """
        config, line = decoding_options(module, generation), Line(limits.answers)
        pad = completed(config, module.peft_model.get_base_model().generation_config).pad_token_id
        engine = Engine(module, line, batch_size=batch_size, pad_token_id=pad)
        return cls(name, Asking(module, config, limits), line, engine, timeout, key)

    def app(self) -> Starlette:
        """Return the application, which starts and stops the engine with itself."""
        routes = [
            Route("/health", self.health),
            Route("/v1/models", self._for_holders(self.models)),
            Route("/v1/models/{name:path}", self._for_holders(self.model)),
        ]
        for kind in (Completions, ChatCompletions):
            endpoint = self._for_holders(self._answering(kind))
            routes.append(Route(kind.endpoint, endpoint, methods=["POST"]))
        return Starlette(
            routes=routes,
            lifespan=self._running,
            max_body_size=BODY_BYTES,
            exception_handlers={
                InputError: lambda _, error: JSONResponse(problem(400, str(error)), 400),
                HTTPException: _refusal,
                ClientDisconnect: lambda *_: Response(status_code=_GONE),
                Exception: lambda *_: JSONResponse(problem(500, "the server failed; its log says why"), 500),
            },
        )

    async def health(self, request: Request) -> Response:
        """Say whether answers are written, and how many are in the line."""
        alive = self.engine.alive
        counts = {"answers": len(self.line), "waiting": self.line.waiting, "places": self.line.places}
        return JSONResponse({"status": "ok" if alive else "stopped", **counts}, 200 if alive else 503)

    async def models(self, request: Request) -> Response:
        """List the one model."""
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        """Describe the model of this name."""
        self._check_model(request.path_params["name"])
        return JSONResponse(self._model())

    def _model(self) -> Json:
        return {"id": self.name, "object": "model", "created": 0, "owned_by": "svd-lightning"}

    def _check_model(self, name: str) -> None:
        if name != self.name:
            raise HTTPException(404, f"model: this server has {self.name!r} alone, got {name!r:.80}")

    def _for_holders(self, endpoint: Endpoint) -> Endpoint:
        """Let only clients with the key in, if there is one."""
        expected = f"Bearer {self.key}".encode()

        async def guarded(request: Request) -> Response:
            given = request.headers.get("authorization", "").encode()
            if self.key is not None and not hmac.compare_digest(given, expected):
                raise HTTPException(
                    401, "api_key: expected the key of this server", {"WWW-Authenticate": "Bearer"}
                )
            return await endpoint(request)

        return guarded

    def _answering(self, kind: type[Asked]) -> Endpoint:
        async def answer(request: Request) -> Response:
            asked = read(await _body(request), kind)
            self._check_model(asked.model)
            reply = await self._begin(asked)
            form = Form(asked)
            if asked.stream:
                return _Events(
                    reply, form, with_usage=bool(asked.stream_options and asked.stream_options.include_usage)
                )
            return await _whole(request, reply, form)

        return answer

    async def _begin(self, asked: Asked) -> "Reply":
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[Piece]()

        def tell(piece: Piece) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        answers = await to_thread.run_sync(self.asking.answers, asked, tell, limiter=self._one_reader)
        try:
            self.line.enter(answers)
        except FullError:
            full = f"the server is full: {len(self.line)} of {self.line.places} places are taken; try again later"
            raise HTTPException(429, full, {"Retry-After": "1"}) from None
        return Reply(answers, pieces, self.line, loop.time() + self.timeout)

    @asynccontextmanager
    async def _running(self, app: Starlette) -> AsyncIterator[None]:
        self.engine.start()
        try:
            yield
        finally:
            await to_thread.run_sync(self.engine.stop)


@dataclass
class Reply:
    """The answers to one request, while they are written."""

    answers: list[Answer]
    arriving: asyncio.Queue[Piece]
    line: Line
    deadline: float
    """By the clock of the event loop."""

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yield what is written, as it comes, until all answers have ended; each then leaves the line.

        Raises:
            HTTPException: if an answer fails, or time is up.
        """
        left = len(self.answers)
        while left:
            rest = self.deadline - asyncio.get_running_loop().time()
            try:
                piece = await asyncio.wait_for(self.arriving.get(), rest)
            except asyncio.TimeoutError:
                raise HTTPException(504, "the answer took too long; ask for less, or try again later") from None
            if isinstance(piece.problem, InputError):
                raise HTTPException(400, str(piece.problem))
            if piece.problem is not None:
                raise HTTPException(500, "the model failed; the server's log says why")
            if piece.finish is not None:
                left -= 1
                self.line.leave([self.answers[piece.choice]])
            yield piece

    def leave(self) -> None:
        """Free the places of all answers; what is not written yet is given up."""
        self.line.leave(self.answers)


class _Events(StreamingResponse):
    """Server-sent events; however the stream ends, the answers leave the line."""

    def __init__(self, reply: Reply, form: Form, *, with_usage: bool) -> None:
        super().__init__(self._events(reply, form, with_usage), media_type="text/event-stream")
        self._reply = reply
        self.headers["Cache-Control"] = "no-store"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
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


async def _whole(request: Request, reply: Reply, form: Form) -> Response:
    """Return the whole reply once it is written, unless the client goes away before."""
    tasks = [asyncio.create_task(_collected(reply)), asyncio.create_task(_disconnected(request))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            return Response(status_code=_GONE)
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


async def _body(request: Request) -> bytes:
    """Return the body, which must be JSON by its own account: a page of another site cannot send that unasked."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "content-type: expected application/json")
    try:
        return await asyncio.wait_for(request.body(), _BODY_SECONDS)
    except asyncio.TimeoutError:
        raise HTTPException(408, f"the body did not arrive within {_BODY_SECONDS:g} seconds") from None


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse(problem(error.status_code, error.detail), error.status_code, error.headers)


def _event(content: Json) -> str:
    return f"data: {json.dumps(content)}\n\n"
