"""SIGTERM and Ctrl-C: how a process hears of them, and how all processes of a run end together."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch.distributed as dist

from svd_lightning.processes import highest, several_processes

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
ONE_STOP = 1.0
"""Seconds in which further signals count as the first one: a terminal, `timeout` and torchrun send it twice."""


class Stopped(SystemExit):
    """A signal has ended the work; the process exits with 128 + its number, 143 for SIGTERM."""

    def __init__(self, sign: signal.Signals) -> None:
        super().__init__(128 + sign)
        self.sign = sign
        self._told = False

    def tell(self, line: str) -> None:
        """Print what is kept and how to go on, on the first process; only the first line counts."""
        if not self._told and not (several_processes() and dist.get_rank()):
            print(f"stopped by {self.sign.name}: {line}", file=sys.stderr, flush=True)
        self._told = True


class _Notice:
    """What the handler knows."""

    process: int | None = None  # the one that has installed it
    sign: signal.Signals | None = None
    since = 0.0
    deferred = False


_notice = _Notice()


@contextmanager
def answering() -> Iterator[None]:
    """Within it the first SIGTERM or SIGINT raises `Stopped`, at once or at the next `check`; the second kills.

    Does nothing within itself, outside the main thread, and for a signal that is ignored, as by `nohup`.
    """
    if _notice.process == os.getpid() or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {sign: handler for sign in _SIGNALS if (handler := signal.getsignal(sign)) is not signal.SIG_IGN}
    _notice.process, _notice.sign, _notice.deferred = os.getpid(), None, False
    for sign in before:
        signal.signal(sign, _hear)
    try:
        yield
        if _notice.sign is not None:
            stop = Stopped(_notice.sign)
            stop.tell("all was done before it could be answered")
            raise stop
    finally:
        _notice.process = _notice.sign = None
        for sign, handler in before.items():
            signal.signal(sign, signal.SIG_DFL if handler is None else handler)


@contextmanager
def deferring(now: bool) -> Iterator[None]:
    """Within it, if `now` or after `defer`, a signal waits for the next `check`."""
    before, _notice.deferred = _notice.deferred, now
    try:
        yield
    finally:
        _notice.deferred = before


def defer() -> None:
    """Make signals wait for the next `check` until `deferring` ends: what runs now must not be broken off."""
    _notice.deferred = True


def check() -> None:
    """Raise `Stopped` on all processes once one of them has had a signal. Call it on every process."""
    if sign := highest(_notice.sign or 0):
        raise Stopped(signal.Signals(sign))


def spare_worker(worker: int) -> None:
    """Make a data worker outlive its first SIGTERM, which `timeout` sends to all; the loader ends its workers.

    Args:
        worker: its number, as `DataLoader` gives it to a `worker_init_fn`.
    """
    signal.signal(signal.SIGTERM, lambda signum, frame: signal.signal(signum, signal.SIG_DFL))


def _hear(signum: int, frame: FrameType | None) -> None:
    """Note the first signal; end the process at the second."""
    if os.getpid() != _notice.process:
        _end_fork(signum)
    elif _notice.sign is None:
        _notice.sign, _notice.since = signal.Signals(signum), time.monotonic()
        if not _notice.deferred:
            raise Stopped(_notice.sign)
    elif time.monotonic() - _notice.since > ONE_STOP:
        _die(signum)


def _end_fork(signum: int) -> None:
    """End a forked worker at SIGTERM; Ctrl-C, which all processes at a terminal get, is for its parent."""
    if signum == signal.SIGTERM:
        _die(signum)


def _die(signum: int) -> None:
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
