"""The thread that writes: as many answers side by side as fit, others join as soon as that pays."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

import torch
from transformers import GenerationConfig

from svd_lightning.commands.serve.answer import Answer
from svd_lightning.commands.serve.line import Line
from svd_lightning.decoding.side_by_side import Row, SideBySide
from svd_lightning.errors import InputError, LogitsError
from svd_lightning.module import SteeredLanguageModel
from svd_lightning.steering import UNSTEERED

_log = logging.getLogger(__name__)


class Engine:
    """Writes what stands in a line, in a thread of its own, which alone runs the model and ends if that breaks.

    Args:
        module: the run.
        line: where answers wait.
        batch_size: how many are written side by side.
        pad_token_id: pads rows.
    """

    def __init__(self, module: SteeredLanguageModel, line: Line, *, batch_size: int, pad_token_id: int) -> None:
        self._peft_model, self._line, self._batch_size = module.peft_model, line, batch_size
        self._pad = pad_token_id
        self._writer = SideBySide(
            module.peft_model,
            module.tokenizer,
            pad_token_id=pad_token_id,
            context_length=module.context_length,
        )
        self._thread = threading.Thread(target=self._run, name="svd-lightning-serve", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether answers are being written."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Give up what is in the line, and wait until the model rests: at most one token longer."""
        self._line.close()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._write_all()
        except Exception:
            _log.exception("no answers are written any more")
        finally:
            self._line.close()

    def _write_all(self) -> None:
        answers: list[Answer] = []
        while True:
            new = self._line.take(self._batch_size - len(answers), answers)
            if not new and not answers:
                return
            answers += [answer for answer in new if self._begins(answer)]
            if answers:
                self._write(answers)
            answers = [answer for answer in answers if not (answer.row.done or answer.gone)]

    def _begins(self, answer: Answer) -> bool:
        try:
            answer.begin(self._peft_model, self._writer)
        except Exception as error:
            answer.fail(error)
            if isinstance(error, LogitsError) or not isinstance(error, InputError):
                self._check_model()
        return not answer.row.done

    def _write(self, answers: Sequence[Answer]) -> None:
        """Write the next tokens; if that fails, those of each answer by itself, so that one alone fails."""
        try:
            self._writer.write([answer.row for answer in answers], self._pausing(answers))
            return
        except Exception as error:
            if len(answers) == 1:
                answers[0].fail(error)
        # only here are the tensors of what failed free again, of which it may have had too many
        if len(answers) == 1:
            self._check_model()
        else:
            for answer in (one for one in answers if not one.row.done):
                self._write([answer])

    def _check_model(self) -> None:
        """Raise what the model raises if it cannot write even a token unsteered: all who come would get errors."""
        config = GenerationConfig(do_sample=False, max_new_tokens=1, pad_token_id=self._pad)
        row = Row(torch.tensor([self._pad]), UNSTEERED["tuned"], config, take=lambda *_: True)
        self._writer.prepare(row)
        self._writer.write([row])

    def _pausing(self, answers: Sequence[Answer]) -> Callable[[int], bool]:
        """Return when to write anew: others wait and there is room, or half of the rows are done.

        Writing anew computes all texts so far once more. So it comes only after as much time as that last took:
        at most half of all time goes there.
        """
        started = time.monotonic()
        first: float | None = None

        def pause(live: int) -> bool:
            nonlocal first
            now = time.monotonic()
            first = now if first is None else first
            if now - first < first - started:
                return False
            return 2 * live <= len(answers) or (live < self._batch_size and self._line.joins(answers))

        return pause
