"""The first signal raises `Stopped` or waits, a second one ends the process, on one process and on two."""

import os
import signal
import threading
import time

import pytest

from svd_lightning import signals
from svd_lightning.processes import highest
from svd_lightning.signals import Stopped, answering, check, defer, deferring, spare_worker
from tests.chain import diary_data
from tests.processes import fork, run_both

SIGNS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def heard():
    """A shell starts what runs in the background with SIGINT ignored, and an ignored signal is not answered."""
    before = {sign: signal.getsignal(sign) for sign in SIGNS}
    for sign, handler in before.items():
        if handler is signal.SIG_IGN:
            signal.signal(sign, signal.SIG_DFL)
    yield
    for sign, handler in before.items():
        signal.signal(sign, handler)


def send(sign=signal.SIGTERM):
    os.kill(os.getpid(), sign)


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_at_once_and_the_old_handlers_come_back(sign, code, capsys):
    before = [signal.getsignal(each) for each in SIGNS]
    with pytest.raises(Stopped) as caught, answering():
        send(sign)
    assert caught.value.code == code
    assert [signal.getsignal(each) for each in SIGNS] == before
    caught.value.tell("a line")
    caught.value.tell("another")
    assert capsys.readouterr().err == f"stopped by {sign.name}: a line\n"


def test_it_waits_for_a_check():
    with answering(), deferring(False):
        defer()
        check()
        send()
        send()  # `timeout` sends it twice
        with pytest.raises(Stopped):
            check()
        signals._notice.sign = None
    check()


def test_what_no_check_has_seen_is_answered_at_the_end(capsys):
    with pytest.raises(Stopped), answering(), deferring(True):
        send()
    assert capsys.readouterr().err == "stopped by SIGTERM: all was done before it could be answered\n"


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with answering():
            send(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_within_itself_and_in_other_threads_it_does_nothing():
    def enter():
        with answering():
            done.append(True)

    done = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    with answering():
        enter()
        with pytest.raises(Stopped):
            send()
        signals._notice.sign = None
    assert done == [True, True]


def wait_for_the_second(_folder):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where pytest runs in the background
    signals.ONE_STOP = 0.0
    with answering(), deferring(True):
        send()
        (_folder / "first").touch()
        time.sleep(100)


def test_a_second_one_ends_the_process(tmp_path):
    process = fork(wait_for_the_second, tmp_path)
    while not (tmp_path / "first").exists():
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == -signal.SIGINT


def fork_within(folder):
    with answering():
        if (child := os.fork()) == 0:
            send(signal.SIGINT)
            (folder / "lives").touch()
            send(signal.SIGTERM)
        os._exit(0 if os.waitpid(child, 0)[1] == signal.SIGTERM else 1)


def test_a_worker_leaves_ctrl_c_to_its_parent(tmp_path):
    process = fork(fork_within, tmp_path)
    process.join(60)
    assert process.exitcode == 0
    assert (tmp_path / "lives").exists()


def outlive_the_first(folder):
    spare_worker(0)
    send()
    (folder / "lives").touch()
    send()


def test_a_data_worker_outlives_the_signal_to_all(tmp_path):
    process = fork(outlive_the_first, tmp_path)
    process.join(60)
    assert process.exitcode == -signal.SIGTERM
    assert (tmp_path / "lives").exists()


def test_the_loaders_spare_their_workers(diaries):
    assert diary_data(diaries)._loader([], None).worker_init_fn is spare_worker


def stop_both(rank):
    try:
        with answering(), deferring(True):
            check()
            if rank:
                send()
            check()
    except Stopped as stop:
        return stop.code, highest(rank)


def test_one_signal_stops_both_processes(tmp_path):
    assert run_both(stop_both, tmp_path) == [(143, 1), (143, 1)]
