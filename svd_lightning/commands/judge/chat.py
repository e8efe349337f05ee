"""A judge behind an OpenAI-compatible endpoint."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from threading import Event
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from svd_lightning.commands.judge.asking import Keep, verdicts_by_asking
from svd_lightning.commands.judge.endpoint import Endpoint, Stopped
from svd_lightning.commands.judge.protocol import Answer, Judge, Progress, Verdict
from svd_lightning.commands.judge.replies import Replies
from svd_lightning.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ChatCompletionsJudge(Judge):
    """A model behind any OpenAI-compatible endpoint, asked the paper's two yes-or-no questions.

    Each prompt is sent once to `{base_url}/chat/completions`. Time-outs, lost connections, 408, 429 and 5xx are
    tried again, after what `Retry-After` says or else after twice as long as the time before; whatever else
    goes wrong ends the run with one line, and the replies so far are kept. Needs the extra `judge`.

    The key is read from the environment when something is sent, and kept nowhere.

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
    """Requests on their way at the same time."""
    timeout: float = 60.0
    """Seconds to wait for a connection, and for each part of a reply."""
    retries: int = 6
    """How often a request that failed is sent again."""
    first_wait: float = 1.0
    """Seconds before the first time, doubled each time, with some chance in them."""
    longest_wait: float = 120.0
    """Seconds to wait at most; an endpoint that asks for longer ends the run."""

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
        taken = {"model", "messages", "stream", "n"} & set(self.options)
        if taken:
            raise InputError(
                f"judge.options: expected other fields than {', '.join(sorted(taken))}: these are set here"
            )
        for name, least in (("concurrency", 1), ("retries", 0)):
            if getattr(self, name) < least:
                raise InputError(f"judge.{name}: expected at least {least}, got {getattr(self, name)}")
        for name in ("timeout", "first_wait", "longest_wait"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"judge.{name}: expected seconds above 0, got {getattr(self, name)}")

    @property
    def label(self) -> str:
        """The model's name."""
        return self.model

    @property
    def about(self) -> str:
        """What its numbers are."""
        return f"ChatCompletionsJudge: {self.model} at {urlsplit(self.base_url).netloc} was asked yes or no"

    def verdicts(self, answers: Sequence[Answer], *, replies: Replies, progress: Progress) -> list[Verdict]:
        """Ask what is not among the replies, several at once.

        Raises:
            InputError: for a key that is missing, a request that is refused, an endpoint that stays away.
        """
        return verdicts_by_asking(answers, self._ask, identity=self._identity, replies=replies, progress=progress)

    def _request(self, prompt: str) -> dict[str, Any]:
        return {"model": self.model, "messages": [{"role": "user", "content": prompt}], **self.options}

    def _identity(self, prompt: str) -> Mapping[str, Any]:
        return {"judge": "chat", "url": self.base_url.rstrip("/"), "request": self._request(prompt)}

    def _ask(self, prompts: Sequence[str], keep: Keep) -> None:
        key = None if self.key_variable is None else _key(self.key_variable)
        with Endpoint(
            _httpx(), self.base_url, key=key, timeout=self.timeout, connections=self.concurrency
        ) as endpoint:
            send = partial(
                endpoint.post, retries=self.retries, first_wait=self.first_wait, longest_wait=self.longest_wait
            )

            def one(prompt: str, stop: Event) -> None:
                keep(prompt, send(self._request(prompt), stop=stop))

            _together(one, prompts, workers=self.concurrency)


def _together(one: Callable[[str, Event], None], prompts: Sequence[str], *, workers: int) -> None:
    """Run `one` on every prompt in threads; the first error stops the rest, but not what is on its way."""
    stop = Event()

    def guarded(prompt: str) -> None:
        try:
            one(prompt, stop)
        except BaseException:
            stop.set()
            raise

    pool = ThreadPoolExecutor(workers, thread_name_prefix="judge")
    try:
        for future in as_completed([pool.submit(guarded, prompt) for prompt in prompts]):
            if not isinstance(future.exception(), Stopped):  # the error that stopped it comes too
                future.result()
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _key(variable: str) -> str:
    """The key, never part of a message."""
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


def _httpx() -> ModuleType:
    try:
        import httpx
    except ImportError as error:
        raise InputError(
            "judge: ChatCompletionsJudge needs httpx, which is not installed; pip install 'svd-lightning[judge]'"
        ) from error
    return httpx
