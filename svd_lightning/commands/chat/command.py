"""`svd-lightning chat`: talk with a run in the terminal."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console
from rich.text import Text
from torch import Tensor

from svd_lightning.answering import decoding_options, open_on
from svd_lightning.commands.chat.session import Session
from svd_lightning.commands.chat.writing import prompt_of, write
from svd_lightning.console import console
from svd_lightning.decoding.generation import check_options
from svd_lightning.errors import InputError
from svd_lightning.module import SteeredLanguageModel

with suppress(ImportError):  # not everywhere
    import readline  # noqa: F401  arrow keys and history in input()

_CHANGED = "bold dark_orange"
"""How tokens look at which steering put another one first than the tuned model."""


def chat(
    run: str,
    *,
    system: str | None = None,
    max_new_tokens: int | None = None,
    generation: dict[str, Any] | None = None,
    device: str | None = None,
) -> None:
    """Talk with a run in the terminal: base, tuned or steered, and all three compared.

    Answers appear as they are written. Tokens at which steering put another one first than the tuned model are
    coloured. `/help` lists the commands; Ctrl-C stops an answer, Ctrl-D ends.

    Args:
        run: run folder of fit or calibrate, such as runs/mine/version_0, or a checkpoint.
        system: a message that comes before the conversation.
        max_new_tokens: the most tokens of an answer; null takes the run's own limit, else 256.
        generation: options of transformers.GenerationConfig over the run's own, such as '{"do_sample": true}'.
        device: to run on, such as cuda; null takes a GPU if there is one.

    Raises:
        InputError: if the run cannot be opened, or for options that make no sense.
    """
    check_options(generation or {})
    if max_new_tokens is not None and max_new_tokens < 1:
        raise InputError(f"max_new_tokens: expected at least 1, got {max_new_tokens}")
    module = open_on(run, device)
    template = module.tokenizer.chat_template is not None
    if system is not None and not template:
        raise InputError("system: this base has no chat template, and knows no system message; leave it out")
    calibrated = module.steering if module.steering.calibrated else None
    session = Session(module.configured, calibrated, template=template, system=system)
    _Talk(module, session, decoding_options(module, generation or {}, max_new_tokens)).run()


class _Talk:
    """The terminal's side of a conversation."""

    def __init__(self, module: SteeredLanguageModel, session: Session, config: Any) -> None:
        self._module, self._session, self._config = module, session, config
        self._console: Console = console()

    def run(self) -> None:
        """Answer line after line until the input ends."""
        self._say(f"{self._session.mode} answers; /help lists the commands")
        if not self._session.template:
            self._say("this base has no chat template: each line is continued by itself, as plain text")
        with _raising_interrupts(), suppress(EOFError):
            while True:
                try:
                    self._take(input(f"{self._session.mode}> "))
                except KeyboardInterrupt:
                    self._say("\n/quit or Ctrl-D ends")
        self._console.print()

    def _take(self, line: str) -> None:
        try:
            if line.strip() == "/compare":
                self._compare()
            elif line.startswith("/"):
                self._say(self._session.obey(line))
            elif line.strip():
                self._answer(line)
        except InputError as error:
            self._say(str(error))

    def _answer(self, line: str) -> None:
        session = self._session
        session.ask(line)
        try:
            text = self._write(session.mode, prompt_of(self._module, session.question()))
        except InputError:
            session.take_back()
            raise
        session.keep(text)

    def _compare(self) -> None:
        if not self._session.asked:
            raise InputError("/compare answers the last question again, and there is none yet")
        prompt_ids = prompt_of(self._module, self._session.question())
        for name in self._session.steerings:
            self._console.print(Text(f"{name}:", style="bold"))
            self._write(name, prompt_ids)

    def _write(self, name: str, prompt_ids: Tensor) -> str:
        text = write(self._module, self._session.steerings[name], prompt_ids, self._config, self._show)
        self._console.print()
        return text

    def _show(self, piece: str, flipped: bool) -> None:
        self._console.print(Text(piece, style=_CHANGED if flipped else ""), end="", soft_wrap=True)

    def _say(self, line: str) -> None:
        self._console.print(Text(line, style="dim"), soft_wrap=True)


@contextmanager
def _raising_interrupts() -> Iterator[None]:
    """Within it Ctrl-C raises KeyboardInterrupt instead of ending the command."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
