"""One answer while it is written: its text up to a stop string, its log-probabilities, and why it ended."""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from svd_lightning.decoding.growing import GrowingText
from svd_lightning.decoding.side_by_side import Row, SideBySide
from svd_lightning.errors import InputError
from svd_lightning.scoring.prompts import score_prompt

_log = logging.getLogger(__name__)

LOWEST = -9999.0
"""Written for log-probabilities below it: JSON has no −∞, and OpenAI's API writes this."""


class LoggedToken(NamedTuple):
    """A token with its log-probability, and the likeliest tokens in its place."""

    text: str
    start: int
    """Where it starts in the answer's text."""
    log_prob: float | None
    """None for the first token of a prompt."""
    tops: list[tuple[str, float]]
    """Texts and log-probabilities, the likeliest first."""


class Piece(NamedTuple):
    """What is new of an answer."""

    choice: int
    """Which answer of its request."""
    text: str = ""
    logged: Sequence[LoggedToken] = ()
    finish: Literal["stop", "length"] | None = None
    """Why the answer ends here; None where it goes on."""
    problem: Exception | None = None
    """What kept it from being written."""


@dataclass(eq=False)
class Answer:
    """One answer of a request. All but `gone` belongs to the thread that writes.

    Args:
        choice: its number in the request.
        row: the text that is written; the answer takes its tokens.
        tokenizer: writes the text.
        ends: tokens that end an answer and are not written.
        tell: called with each piece, in the thread that writes.
        stop: strings that end the answer and are not part of it.
        tops: how many of the likeliest tokens are logged beside each; None logs nothing.
        echo: the prompt, with which the text begins; None leaves it out.
    """

    choice: int
    row: Row
    tokenizer: PreTrainedTokenizerBase
    ends: Collection[int]
    tell: Callable[[Piece], None]
    stop: Sequence[str] = ()
    tops: int | None = None
    echo: str | None = None
    gone: bool = False
    """Whether nobody waits for it any more; set by any thread."""
    _logged: list[LoggedToken] = field(default_factory=list)
    _held: str = ""
    _told: int = 0

    def __post_init__(self) -> None:
        self._growing = GrowingText(self.tokenizer, self.ends)
        self.row.take = self._take

    def begin(self, peft_model: PeftModel, writer: SideBySide) -> None:
        """Make the row ready, and tell the prompt if it is echoed.

        Raises:
            InputError: as `SideBySide.prepare` and `score_prompt`.
        """
        if self.echo is not None:
            self._log_prompt(peft_model)
            self._tell(self.echo, finish=None if self.row.config.max_new_tokens else "length")
        if self.row.config.max_new_tokens:
            writer.prepare(self.row)
        else:
            self.row.done = True

    def fail(self, problem: Exception) -> None:
        """End the answer with a problem, which the log tells in full and the client in brief."""
        self.row.done = True
        if isinstance(problem, InputError):
            _log.warning("an answer failed: %s", problem)
        else:
            _log.error("an answer failed", exc_info=problem)
        # without the frames, whose tensors would live until the client has read it
        self.tell(Piece(self.choice, problem=problem.with_traceback(None)))

    def _take(self, token: int, logits: Tensor, last: bool) -> bool:
        if self.gone:
            return True
        try:
            return self._add(token, logits, last)
        except Exception as error:  # its text has a gap now: the rows beside it go on, it does not
            self.fail(error)
            return True

    def _add(self, token: int, logits: Tensor, last: bool) -> bool:
        start = self._told + len(self._held)
        if self.tops is not None and token not in self.ends:
            log_p = torch.log_softmax(logits.float(), dim=-1)
            best = log_p.topk(self.tops)
            self._log(token, start, log_p[token].item(), self._pairs(best.indices, best.values))
        self._held += self._growing.add(token)
        if last:
            self._held += self._growing.rest()
        cut = min((place for one in self.stop if (place := self._held.find(one)) >= 0), default=None)
        if cut is not None:
            self._tell(self._held[:cut], finish="stop", cut=True)
            return True
        if last:
            full = token not in self.ends and len(self.row.written) >= self.row.config.max_new_tokens
            self._tell(self._held, finish="length" if full else "stop")
        elif sure := self._held[: len(self._held) - begun(self._held, self.stop)]:
            self._tell(sure)
        return last

    def _tell(self, text: str, finish: Literal["stop", "length"] | None = None, cut: bool = False) -> None:
        """Tell the next text, and the tokens that begin in it; at an end that is no cut all tokens."""
        self._held, self._told = self._held[len(text) :], self._told + len(text)
        everything = finish is not None and not cut
        told = [one for one in self._logged if everything or one.start < self._told]
        self._logged = self._logged[len(told) :]
        self.tell(Piece(self.choice, text, told, finish))

    def _log_prompt(self, peft_model: PeftModel) -> None:
        if self.tops is None:
            return
        ids, start, growing = self.row.prompt_ids, 0, GrowingText(self.tokenizer)
        scores = score_prompt(peft_model, ids, self.row.steering, tops=self.tops)
        for place, token in enumerate(ids.tolist()):
            if place:
                tops = self._pairs(scores.top_tokens[place - 1], scores.top_log_probs[place - 1])
                self._log(token, start, scores.log_probs[place - 1].item(), tops)
            else:  # nothing predicts it
                self._log(token, start, None, [])
            start += len(growing.add(token))

    def _log(self, token: int, start: int, log_prob: float | None, tops: list[tuple[str, float]]) -> None:
        known = None if log_prob is None else max(log_prob, LOWEST)
        self._logged.append(LoggedToken(self.tokenizer.decode([token]), start, known, tops))

    def _pairs(self, tokens: Tensor, log_probs: Tensor) -> list[tuple[str, float]]:
        texts = [str(self.tokenizer.decode([token])) for token in tokens.tolist()]
        return list(zip(texts, (max(value, LOWEST) for value in log_probs.tolist()), strict=True))


def begun(text: str, stops: Sequence[str]) -> int:
    """Return how many characters at the end of a text may begin a stop string.

    >>> begun("one, tw", ["two", "xy"]), begun("one", ["two"])
    (2, 0)
    """
    return max(
        (size for stop in stops for size in range(1, min(len(stop), len(text) + 1)) if text.endswith(stop[:size])),
        default=0,
    )
