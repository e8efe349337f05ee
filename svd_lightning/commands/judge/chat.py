"""A judge behind an OpenAI-compatible endpoint, asked by the openai client."""

import asyncio
import os
import warnings
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from svd_lightning.commands.judge.asking import Keep, opinions_by_asking
from svd_lightning.commands.judge.protocol import Answer, Judge, Opinion, Progress
from svd_lightning.commands.judge.replies import Replies
from svd_lightning.errors import InputError

_REFUSED = "(refused by the endpoint's content filter)"
"""The reply to a prompt that the endpoint will never answer; counts as an abstention."""
_PASSING = frozenset({408, 409, 429, *range(500, 600)})
"""Statuses after which the client sends the same request again."""


@dataclass(frozen=True, kw_only=True)
class ChatCompletionsJudge(Judge):
    """A model behind any OpenAI-compatible endpoint, asked the paper's two yes-or-no questions.

    Each prompt is sent once to `{base_url}/chat/completions`. After time-outs, lost connections, 408, 409, 429 and
    5xx the openai client sends it again, when `Retry-After` says so, or else after twice the last wait. Any other
    error ends the run with one line; the replies so far are kept. Needs the extra `judge`.

    The key is read from the environment when something is sent, and never stored. The client also reads
    OPENAI_ORG_ID, OPENAI_PROJECT_ID and the usual proxy variables.

    Raises:
        InputError: for options that make no sense.
    """

    model: str
    """The model's name at the endpoint."""
    base_url: str = "https://api.openai.com/v1"
    """The endpoint, without /chat/completions."""
    key_variable: str | None = "OPENAI_API_KEY"
    """The environment variable with the key; null for an endpoint that needs none."""
    options: Mapping[str, Any] = field(default_factory=lambda: {"temperature": 0, "max_tokens": 16})
    """Other fields of the request; models that think first need {"max_completion_tokens": 2000} instead."""
    concurrency: int = 8
    """How many requests are sent at once."""
    timeout: float = 60.0
    """Seconds to wait for a connection, and for each part of a reply."""
    retries: int = 6
    """How often a request that failed is sent again."""
    first_wait: float | None = None
    """Ignored, with a warning: the client chooses its waits."""
    longest_wait: float | None = None
    """Ignored, with a warning: the client chooses its waits."""

    def __post_init__(self) -> None:
        url = urlsplit(self.base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise InputError(
                "judge.base_url: expected http:// or https:// and a host, such as http://localhost:8000/v1"
            )
        if url.username or url.password or url.query or url.fragment:
            raise InputError(
                "judge.base_url: expected no user, password or query in it; give the key by key_variable"
            )
        if taken := {"model", "messages", "stream", "n"} & set(self.options):
            raise InputError(
                f"judge.options: expected other fields than {', '.join(sorted(taken))}: these are set here"
            )
        for name, least in (("concurrency", 1), ("retries", 0)):
            if getattr(self, name) < least:
                raise InputError(f"judge.{name}: expected at least {least}, got {getattr(self, name)}")
        if not 0 < self.timeout < float("inf"):
            raise InputError(f"judge.timeout: expected seconds above 0, got {self.timeout}")
        for name in ("first_wait", "longest_wait"):
            if getattr(self, name) is not None:
                warnings.warn(f"judge.{name} is ignored: the openai client chooses its waits", stacklevel=2)

    @property
    def label(self) -> str:
        """The model's name."""
        return self.model

    @property
    def about(self) -> str:
        """Says which model was asked, and where."""
        return f"ChatCompletionsJudge: {self.model} at {urlsplit(self.base_url).netloc} was asked yes or no"

    def verdicts(self, answers: Sequence[Answer], *, replies: Replies, progress: Progress) -> list[Opinion]:
        """Ask for the replies that are missing, several prompts at once.

        Raises:
            InputError: if the key is missing, the endpoint refuses a request or cannot be reached.
        """
        return opinions_by_asking(answers, self._ask, identity=self._identity, replies=replies, progress=progress)

    def _identity(self, prompt: str) -> dict[str, object]:
        request = {"model": self.model, "messages": _messages(prompt), **self.options}
        return {"judge": "chat", "url": self.base_url.rstrip("/"), "request": request}

    def _ask(self, prompts: Sequence[str], keep: Keep) -> None:
        key = None if self.key_variable is None else _key(self.key_variable)
        openai = _openai()
        from anyio.from_thread import start_blocking_portal  # comes with openai

        async def ask() -> None:
            async with openai.AsyncOpenAI(
                base_url=self.base_url,
                api_key=key or "none",
                timeout=self.timeout,
                max_retries=self.retries,
                # a redirect would turn POST into GET
                http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False),
            ) as client:
                create = partial(  # the raw response: endpoints differ in what they leave out
                    client.chat.completions.with_raw_response.create,
                    model=self.model,
                    extra_body=dict(self.options),
                    extra_headers={"Authorization": openai.Omit()} if key is None else {},
                )
                await _in_workers(partial(one, create), prompts, workers=self.concurrency)

        async def one(create: Any, prompt: str) -> None:
            try:
                keep(prompt, await _reply(openai, create, prompt))
            except _NoReply as error:
                url = f"{self.base_url.rstrip('/')}/chat/completions"
                kept = "the replies so far are kept: the same command asks only the rest"
                message = f"judge: {url}: {error}; {kept}"
                raise InputError(message if key is None else message.replace(key, "(key)")) from error

        with start_blocking_portal() as portal:  # a loop of its own: in a notebook another one is running
            portal.call(ask)


def _messages(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


class _NoReply(Exception):
    """Says why there is no reply."""


async def _reply(openai: ModuleType, create: Any, prompt: str) -> str:
    """Ask for one reply; empty if the model said nothing."""
    try:
        sent = await create(messages=_messages(prompt))
    except openai.APIConnectionError as error:
        cause = error.__cause__
        raise _NoReply(f"{_attempts(error.request)}: {type(cause).__name__} {cause}") from error
    except openai.APIStatusError as error:
        return _read_status(error.response)
    return _read_completion(sent.http_response)


def _read_completion(response: Any) -> str:
    try:
        content = response.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        content = 0
    if content is None or isinstance(content, str):
        return content or ""
    raise _NoReply(f"expected a chat completion, got {_excerpt(response)}")


def _read_status(response: Any) -> str:
    """Take a content filter's refusal for a reply; any other error status ends the run."""
    status, excerpt = response.status_code, _excerpt(response)
    if status == 400 and "content_filter" in response.text:
        return _REFUSED
    if status not in _PASSING:
        raise _NoReply(f"refused with status {status}: {excerpt}")
    wait = response.headers.get("Retry-After")
    asked = f", which asks to wait {wait} seconds" if wait else ""
    raise _NoReply(f"{_attempts(response.request)}: status {status}{asked}: {excerpt}")


def _attempts(request: Any) -> str:
    """Say how often the client has tried; it counts in the request."""
    count = 1 + int(request.headers["x-stainless-retry-count"])
    return f"no answer after {count} attempt{'s' * (count > 1)}, the last one"


def _excerpt(response: Any) -> str:
    return f"{' '.join(response.text.split())!r:.200}"


async def _in_workers(
    one: Callable[[str], Coroutine[Any, Any, None]], prompts: Sequence[str], *, workers: int
) -> None:
    """Run `one` on every prompt, several at once; the first error cancels the rest, waits included."""
    left = iter(prompts)

    async def work() -> None:
        for prompt in left:
            await one(prompt)

    tasks = [asyncio.create_task(work()) for _ in range(workers)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _key(variable: str) -> str:
    key = os.environ.get(variable, "")
    if not key:
        raise InputError(
            f"judge.key_variable: expected the endpoint's key in the environment variable {variable}, which is "
            "not set; export it, or give null for an endpoint that needs none"
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise InputError(
            f"judge.key_variable: expected printable characters without spaces in {variable}; is there a line end?"
        )
    return key


def _openai() -> ModuleType:
    try:
        import openai
    except ImportError as error:
        raise InputError(
            "judge: ChatCompletionsJudge needs openai, which is not installed; pip install 'svd-lightning[judge]'"
        ) from error
    return openai
