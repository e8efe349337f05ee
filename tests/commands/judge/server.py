"""A real HTTP server on loopback that plays an OpenAI-compatible endpoint, well or badly."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Response:
    """What the endpoint does with one request."""

    status: int = 200
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    hang_up: bool = False


def says(text: str | None, **options: Any) -> Response:
    """Answer with a chat completion."""
    return Response(body=json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}), **options)


@dataclass
class Endpoint:
    """What the endpoint has seen."""

    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[Message] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    @property
    def prompts(self) -> list[str]:
        return [request["messages"][0]["content"] for request in self.requests]


@contextmanager
def endpoint(respond: Callable[[int, str], Response]) -> Iterator[Endpoint]:
    """Serve until the block ends; `respond` gets the number of the request, from 0, and its prompt."""
    seen, lock = Endpoint(), Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(seen.requests)
                seen.requests.append(content)
                seen.headers.append(self.headers)
                seen.at_once += 1
                seen.most_at_once = max(seen.most_at_once, seen.at_once)
            response = respond(number, content["messages"][0]["content"])
            time.sleep(response.delay)
            with lock:
                seen.at_once -= 1
            self.close_connection = response.hang_up
            if not response.hang_up:
                self.answer(404 if self.path != "/v1/chat/completions" else response.status, response)

        def answer(self, status: int, response: Response) -> None:
            body = response.body.encode()
            self.send_response(status)
            for name, value in {**response.headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    seen.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)
