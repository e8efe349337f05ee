"""`svd-lightning serve`: a run as an OpenAI-compatible server."""

import logging
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from svd_lightning.answering import open_on
from svd_lightning.commands.serve.limits import Limits
from svd_lightning.console import console
from svd_lightning.decoding.generation import check_options
from svd_lightning.errors import InputError
from svd_lightning.runs import find_checkpoint
from svd_lightning.signals import Stopped

_log = logging.getLogger(__name__)
KEY = "SVD_LIGHTNING_API_KEY"
"""If this environment variable is set, clients must send it as their API key."""


def serve(
    run: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str | None = None,
    batch_size: int = 8,
    places: int = 64,
    timeout: float = 300.0,
    max_prompt_tokens: int = 4096,
    max_new_tokens: int = 1024,
    generation: dict[str, Any] | None = None,
    device: str | None = None,
) -> None:
    """Answer over HTTP as an OpenAI-compatible server, by base, tuned or steered model as each request says.

    `/v1/chat/completions`, `/v1/completions`, `/v1/models` and `/health`, until Ctrl-C or SIGTERM. A request
    chooses by its field `distribution`: base, tuned or steered (the default). If the environment variable
    SVD_LIGHTNING_API_KEY is set, clients must send it as their key.

    Args:
        run: run folder of fit or calibrate, such as runs/mine/version_0, or a checkpoint.
        host: address to listen on; the default lets in this machine alone, 0.0.0.0 everyone who reaches it.
        port: to listen on; 0 takes a free one.
        name: of the model in requests; null takes the last two parts of the run's path.
        batch_size: how many answers are written side by side.
        places: how many answers there may be at once, waiting or being written; more are refused (429).
        timeout: seconds that an answer may take, waiting included.
        max_prompt_tokens: the longest prompt.
        max_new_tokens: the longest answer that a request may ask for.
        generation: options of transformers.GenerationConfig over the run's own, such as '{"do_sample": true}'.
        device: to run on, such as cuda; null takes a GPU if there is one.

    Raises:
        InputError: if the extra is not installed, the run cannot be opened, nobody can listen on the port, or for
            options that make no sense.
    """
    if missing := [package for package in ("starlette", "uvicorn", "pydantic") if find_spec(package) is None]:
        raise InputError(f"serve: {missing[0]} is not installed; pip install 'svd-lightning[serve]'")
    counts = {"batch_size": batch_size, "max_prompt_tokens": max_prompt_tokens, "max_new_tokens": max_new_tokens}
    if wrong := [f"{option}: expected at least 1, got {count}" for option, count in counts.items() if count < 1]:
        raise InputError(wrong[0])
    if places < batch_size:
        raise InputError(f"places: expected at least batch_size, {batch_size}, got {places}")
    if not 0 < timeout < float("inf"):
        raise InputError(f"timeout: expected a number of seconds above 0, got {timeout}")
    check_options(generation or {})
    find_checkpoint(run)
    from svd_lightning.commands.serve.app import Service  # optional packages
    from svd_lightning.commands.serve.listening import Server, bound, is_local

    with bound(host, port) as listener:
        module = open_on(run, device)
        service = Service.of(
            module,
            name or "/".join(Path(run).expanduser().resolve().parts[-2:]),
            generation=generation or {},
            batch_size=batch_size,
            limits=Limits(max_prompt_tokens, max_new_tokens, places),
            timeout=timeout,
            key=os.environ.get(KEY) or None,
        )
        if not module.steering.calibrated:
            _log.warning("this run has no strengths to steer with: requests must ask for base or tuned")
        if service.key is None and not is_local(host):
            _log.warning("everyone who reaches %s gets answers: set %s to ask for a key", host, KEY)
        try:
            Server(service, lambda place: _announce(service.name, place)).run(sockets=[listener])
        except Stopped as stop:
            stop.tell("the answers that had begun are sent, or given up")
            raise
        sys.exit("error: the server ended by itself; the log says why")


def _announce(name: str, place: str) -> None:
    console().print(
        f"{name} answers at http://{place}/v1; Ctrl-C ends", highlight=False, markup=False, soft_wrap=True
    )
