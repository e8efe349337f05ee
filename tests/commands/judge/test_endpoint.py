"""How long is waited between attempts: against a real server, with an event that notes the waits and returns."""

import email.utils
import time
from threading import Event

import httpx
import pytest

from svd_lightning.commands.judge.endpoint import Endpoint, Stopped
from svd_lightning.errors import InputError
from tests.commands.judge.server import Response, endpoint, says


class Noted(Event):
    """Waits for nobody."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def wait(self, timeout=None):
        self.waits.append(timeout)
        return self.is_set()


def post(url, stop, **options):
    given = {"retries": 4, "first_wait": 1.0, "longest_wait": 120.0, **options}
    with Endpoint(httpx, url, key=None, timeout=5.0, connections=1) as sender:
        return sender.post({"messages": [{"content": "hello"}]}, stop=stop, **given)


def busy_at_first(headers, times=1):
    return lambda number, prompt: says("yes") if number >= times else Response(status=429, headers=headers)


def test_waits_double_up_to_the_longest():
    stop = Noted()
    with endpoint(busy_at_first({}, times=4)) as server:
        assert post(server.url, stop, longest_wait=3.0) == "yes"
    for wait, full in zip(stop.waits, (1.0, 2.0, 3.0, 3.0), strict=True):
        assert full / 2 <= wait <= full


def test_retry_after_in_seconds_is_waited_for():
    stop = Noted()
    with endpoint(busy_at_first({"Retry-After": "7.5"}, times=2)) as server:
        post(server.url, stop)
    assert stop.waits == [7.5, 7.5]


def test_retry_after_as_a_date_is_waited_for():
    stop = Noted()
    when = email.utils.formatdate(time.time() + 100, usegmt=True)
    with endpoint(busy_at_first({"Retry-After": when})) as server:
        post(server.url, stop)
    [wait] = stop.waits
    assert 40 < wait <= 100, "less what the request itself took"


@pytest.mark.parametrize("value", ["soon", "", "Wed, 99 Nope"])
def test_a_retry_after_that_says_nothing_is_left_out(value):
    stop = Noted()
    with endpoint(busy_at_first({"Retry-After": value})) as server:
        post(server.url, stop)
    assert 0.5 <= stop.waits[0] <= 1.0


def test_a_date_in_the_past_is_no_wait():
    stop = Noted()
    with endpoint(busy_at_first({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})) as server:
        post(server.url, stop)
    assert stop.waits == [0.0]


def test_too_long_a_wait_ends_the_run():
    busy = Response(status=429, headers={"Retry-After": "3600"}, body="quota of the day")
    with endpoint(lambda number, prompt: busy) as server, pytest.raises(InputError) as caught:
        post(server.url, Noted())
    assert "asks to wait 3600 seconds, and judge.longest_wait is 120: 'quota of the day'" in str(caught.value)
    assert len(server.requests) == 1


def test_after_the_last_attempt_nobody_waits():
    stop = Noted()
    with (
        endpoint(busy_at_first({}, times=9)) as server,
        pytest.raises(InputError, match="no answer after 3 attempts"),
    ):
        post(server.url, stop, retries=2)
    assert (len(server.requests), len(stop.waits)) == (3, 2)


def test_once_stopped_nothing_is_sent():
    stop = Noted()
    stop.set()
    with endpoint(busy_at_first({})) as server, pytest.raises(Stopped):
        post(server.url, stop)
    assert not server.requests
