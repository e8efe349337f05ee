"""The server's side of HTTP (extra `serve`): routes, keys, time-outs, and clients that go away."""

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, get_args

import anyio
from anyio import to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from svd_lightning.answering import decoding_options
from svd_lightning.commands.serve.answer import Piece
from svd_lightning.commands.serve.asking import Asking
from svd_lightning.commands.serve.engine import Engine
from svd_lightning.commands.serve.limits import Limits
from svd_lightning.commands.serve.line import ClosedError, FullError, Line
from svd_lightning.commands.serve.replies import Form, Json, problem
from svd_lightning.commands.serve.requests import ChatCompletions, Completions, read
from svd_lightning.commands.serve.requests import Request as Asked
from svd_lightning.commands.serve.sending import GONE, STOPPING, Events, Reply, whole
from svd_lightning.decoding.generation import completed
from svd_lightning.errors import InputError
from svd_lightning.module import SteeredLanguageModel
from svd_lightning.steering import Distribution

BODY_BYTES = 2 * 2**20
"""The longest body of a request."""
_BODY_SECONDS = 30.0
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
                ClientDisconnect: lambda *_: Response(status_code=GONE),
                Exception: lambda *_: JSONResponse(problem(500, "the server failed; its log says why"), 500),
            },
        )

    async def health(self, request: Request) -> Response:
        """Say whether answers are written, and how many are in the line."""
        alive = self.engine.alive
        counts = {"answers": len(self.line), "waiting": self.line.waiting, "places": self.line.places}
        return JSONResponse({"status": "ok" if alive else "stopped", **counts}, 200 if alive else 503)

    async def models(self, request: Request) -> Response:
        """List the model, and each of its distributions as one, for clients that can choose a model only."""
        return JSONResponse({"object": "list", "data": [_described(name) for name in self._names()]})

    async def model(self, request: Request) -> Response:
        """Describe the model of this name."""
        name = request.path_params["name"]
        self._chosen(name, None)
        return JSONResponse(_described(name))

    def _names(self) -> dict[str, Distribution | None]:
        """The names of the model, with the distribution that each stands for."""
        return {self.name: None, **{f"{self.name}:{one}": one for one in get_args(Distribution)}}

    def _chosen(self, model: str, distribution: Distribution | None) -> Distribution:
        """Return the distribution that a model's name and the field `distribution` choose."""
        if model not in (names := self._names()):
            raise HTTPException(404, f"model: expected one of {', '.join(names)}, got {model!r:.80}")
        chosen = names[model] or distribution or "steered"
        if distribution not in (None, chosen):
            raise InputError(
                f"distribution: {model} stands for {chosen}, got {distribution}; leave one of them out"
            )
        return chosen

    def _for_holders(self, endpoint: Endpoint) -> Endpoint:
        """Let only clients with the key in, if there is one."""
        expected = f"Bearer {self.key}".encode()

        async def guarded(request: Request) -> Response:
            given = request.headers.get("authorization", "").encode("latin-1")  # its bytes
            if self.key is not None and not hmac.compare_digest(given, expected):
                raise HTTPException(
                    401, "api_key: expected the key of this server", {"WWW-Authenticate": "Bearer"}
                )
            return await endpoint(request)

        return guarded

    def _answering(self, kind: type[Asked]) -> Endpoint:
        async def answer(request: Request) -> Response:
            asked = read(await _body(request), kind)
            asked = asked.model_copy(update={"distribution": self._chosen(asked.model, asked.distribution)})
            reply = await self._begin(asked)
            form = Form(asked)
            if asked.stream:
                return Events(
                    reply, form, with_usage=bool(asked.stream_options and asked.stream_options.include_usage)
                )
            return await whole(request, reply, form)

        return answer

    async def _begin(self, asked: Asked) -> Reply:
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[Piece]()

        def tell(piece: Piece) -> None:
            if piece.finish is not None or piece.problem is not None:
                self.line.leave([answers[piece.choice]])  # whether or not the client reads what is written
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        answers = await to_thread.run_sync(self.asking.answers, asked, tell, limiter=self._one_reader)
        try:
            self.line.enter(answers)
        except FullError:
            full = f"the server is full: {len(self.line)} of {self.line.places} places are taken; try again later"
            raise HTTPException(429, full, {"Retry-After": "1"}) from None
        except ClosedError:
            raise HTTPException(503, STOPPING) from None
        return Reply(answers, pieces, self.line, loop.time() + self.timeout)

    @asynccontextmanager
    async def _running(self, app: Starlette) -> AsyncIterator[None]:
        self.engine.start()
        try:
            yield
        finally:
            await to_thread.run_sync(self.engine.stop)


def _described(name: str) -> Json:
    return {"id": name, "object": "model", "created": 0, "owned_by": "svd-lightning"}


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
