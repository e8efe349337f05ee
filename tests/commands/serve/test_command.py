"""The verb in a process of its own: it says where it listens, and ends cleanly; options that make no sense."""

import os
import re
import signal
import socket

import openai
import pytest

from svd_lightning.cli import main
from svd_lightning.commands.serve.command import KEY
from tests.commands.serve.serving import client, health, wait_for
from tests.processes import fork_module

PROMPT = "winter on the moor , by a monk :"


def started(log):
    """The address that the log names, None before it does."""
    return (
        found[1] if log.exists() and (found := re.search(r"answers at http://(\S+)/v1", log.read_text())) else None
    )


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_a_signal(sign, fitted, tmp_path):
    log = tmp_path / "log"
    process = fork_module("svd_lightning", "serve", str(fitted), "--port", "0", log=log, **{KEY: "secret"})
    try:
        wait_for(lambda: started(log) or not process.is_alive(), 120)
        address = started(log)
        assert address is not None, log.read_text()
        assert address.startswith("127.0.0.1:")
        mine = client(address, api_key="secret")
        model, *_ = mine.models.list()
        assert model.id == "/".join(fitted.parts[-2:])
        assert mine.completions.create(model=model.id, prompt=PROMPT).choices[0].text
        with pytest.raises(openai.AuthenticationError):
            client(address).models.list()
        assert health(address)["places"] == 64
        os.kill(process.pid, sign)
        process.join(60)
        assert process.exitcode == 128 + sign
        told = log.read_text()
        assert f"stopped by {sign.name}: the answers that had begun are sent, or given up" in told
        assert "Traceback" not in told
    finally:
        process.kill()
        process.join()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch-size", "0"], "batch_size: expected at least 1, got 0"),
        (["--places", "4"], "places: expected at least batch_size, 8, got 4"),
        (["--timeout", "0"], "timeout: expected a number of seconds above 0, got 0"),
        (["--timeout=-1"], "timeout: expected a number of seconds above 0, got -1"),
        (["--max-prompt-tokens", "0"], "max_prompt_tokens: expected at least 1, got 0"),
        (["--generation", "{temprature: 1}"], "generation: unknown option temprature"),
        (["--generation", "{num_beams: 2}"], "expected one answer without beams"),
        (["--port", "99999"], "port: cannot listen on 127.0.0.1:99999"),
        (["--host", "203.0.113.7", "--port", "0"], "port: cannot listen on 203.0.113.7:0"),
        (["--device", "abacus"], "device: cannot use 'abacus'"),
    ],
)
def test_options_that_make_no_sense_are_one_line(options, message, fitted):
    with pytest.raises(SystemExit, match=message):
        main(["serve", str(fitted), *options])


def test_a_taken_port_is_told_before_anything_is_loaded(fitted):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match=f"port: cannot listen on 127.0.0.1:{port}: .*in use"):
            main(["serve", str(fitted), "--port", str(port)])
    with pytest.raises(SystemExit, match="run: expected a run folder"):
        main(["serve", "nowhere"])
