"""Sending a request until it is answered, or it is clear that it will not be."""

import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from threading import Event
from types import ModuleType, TracebackType
from typing import Any

from svd_lightning.errors import InputError

_PASSING = frozenset({408, 409, 425, 429, *range(500, 600)})
"""Statuses that may be gone when the same request is sent again."""
_REFUSED = "(refused by the endpoint's content filter)"
"""Stands for the reply to a prompt that the endpoint will never answer: an abstention."""


class Stopped(Exception):
    """The run ends: a request that was waiting is not sent again."""


class Endpoint:
    """A pool of connections to `{base_url}/chat/completions`; close it by leaving its `with` block.

    Args:
        httpx: the library, which is optional.
        base_url: without /chat/completions.
        key: sent as bearer token; None sends none. It is cut out of every message.
        timeout: seconds, for connecting and for each part of a reply.
        connections: how many at once.
    """

    def __init__(
        self, httpx: ModuleType, base_url: str, *, key: str | None, timeout: float, connections: int
    ) -> None:
        self._httpx, self._key = httpx, key
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._client = httpx.Client(
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
            timeout=timeout,
            limits=httpx.Limits(max_connections=connections),
        )

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._client.close()

    def post(
        self, request: Mapping[str, Any], *, retries: int, first_wait: float, longest_wait: float, stop: Event
    ) -> str:
        """The text of the reply; empty where the model said nothing.

        Args:
            request: the body.
            retries: how often to try again.
            first_wait: seconds before the first time, then twice as long each time, less up to a half by chance.
            longest_wait: seconds to wait at most.
            stop: set it to end the waiting.

        Raises:
            InputError: for a request that is refused, an endpoint that stays away or asks for too long a wait.
            Stopped: if `stop` was set.
        """
        failure = ""
        for attempt in range(retries + 1):
            if stop.is_set():
                raise Stopped
            wait = min(longest_wait, first_wait * 2**attempt) * random.uniform(0.5, 1.0)
            try:
                response = self._client.post(self._url, json=request)
            except (self._httpx.TimeoutException, self._httpx.TransportError) as error:
                failure = f"{type(error).__name__} {error}"
            else:
                reply, failure = self._read(response)
                if reply is not None:
                    return reply
                wait = self._asked_wait(response, wait, longest_wait)
            if attempt < retries:
                stop.wait(wait)
        raise self._error(f"no answer after {retries + 1} attempts, the last one: {failure}")

    def _read(self, response: Any) -> tuple[str | None, str]:
        """The reply, or what was wrong where trying again may help."""
        status = response.status_code
        if status == 400 and "content_filter" in response.text:
            return _REFUSED, ""
        if status != 200 and status not in _PASSING:
            raise self._error(f"refused with status {status}: {_excerpt(response)}")
        try:
            if status == 200:
                content = response.json()["choices"][0]["message"]["content"]
                if content is None or isinstance(content, str):
                    return content or "", ""
        except (ValueError, LookupError, TypeError):
            pass
        return None, f"status {status}{' but no chat completion' * (status == 200)}: {_excerpt(response)}"

    def _asked_wait(self, response: Any, wait: float, longest: float) -> float:
        """What Retry-After asks for, in seconds; without it, `wait`."""
        asked = _seconds(response.headers.get("Retry-After"))
        if asked is None:
            return wait
        if asked > longest:
            raise self._error(
                f"asks to wait {asked:.0f} seconds, and judge.longest_wait is {longest:g}: {_excerpt(response)}"
            )
        return asked

    def _error(self, what: str) -> InputError:
        message = f"judge: {self._url}: {what}; the replies so far are kept: the same command asks only the rest"
        return InputError(message if self._key is None else message.replace(self._key, "(key)"))


def _excerpt(response: Any) -> str:
    return f"{' '.join(response.text.split())!r:.200}"


def _seconds(value: str | None) -> float | None:
    """Retry-After as seconds from now: a number, or a date; None where it is neither."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
