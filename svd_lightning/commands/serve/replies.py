"""Answers as JSON of the OpenAI API: whole, and in chunks of a stream."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from svd_lightning.commands.serve.answer import Answer, LoggedToken, Piece
from svd_lightning.commands.serve.requests import ChatCompletions, Request

Json = dict[str, Any]


@dataclass(frozen=True)
class Form:
    """How the answers to one request are written.

    Args:
        request: what was asked.
    """

    request: Request
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def chat(self) -> bool:
        """Whether it is a conversation."""
        return isinstance(self.request, ChatCompletions)

    def whole(self, pieces: Sequence[Sequence[Piece]], answers: Sequence[Answer]) -> Json:
        """Return the reply with all pieces of each answer."""
        choices = []
        for number, own in enumerate(pieces):
            text = "".join(piece.text for piece in own)
            said = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
            logged = [one for piece in own for one in piece.logged]
            choices.append(self._choice(number, said, logged, own[-1].finish))
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": usage(answers)}

    def chunk(self, piece: Piece, *, first: bool) -> Json:
        """Return one chunk of a stream; the first of each answer says who speaks."""
        role = {"role": "assistant"} if first else {}
        said = {"delta": {**role, "content": piece.text}} if self.chat else {"text": piece.text}
        choice = self._choice(piece.choice, said, piece.logged, piece.finish)
        return {**self._head(self._chunks), "choices": [choice]}

    def last_chunk(self, answers: Sequence[Answer]) -> Json:
        """Return the chunk that tells the usage."""
        return {**self._head(self._chunks), "choices": [], "usage": usage(answers)}

    @property
    def _chunks(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _head(self, kind: str) -> Json:
        prefix = "chatcmpl" if self.chat else "cmpl"
        model = self.request.model
        return {"id": f"{prefix}-{self.id}", "object": kind, "created": self.created, "model": model}

    def _choice(self, number: int, said: Json, logged: Sequence[LoggedToken], finish: str | None) -> Json:
        log_probs = None
        if self.request.tops is not None:
            log_probs = _chat_log_probs(logged) if self.chat else _text_log_probs(logged)
        return {"index": number, **said, "logprobs": log_probs, "finish_reason": finish}


def _chat_log_probs(logged: Sequence[LoggedToken]) -> Json:
    content = [
        {**_token(one.text, one.log_prob), "top_logprobs": [_token(*pair) for pair in one.tops]} for one in logged
    ]
    return {"content": content, "refusal": None}


def _token(text: str, log_prob: float | None) -> Json:
    return {"token": text, "logprob": log_prob, "bytes": list(text.encode())}


def _text_log_probs(logged: Sequence[LoggedToken]) -> Json:
    return {
        "tokens": [one.text for one in logged],
        "token_logprobs": [one.log_prob for one in logged],
        # of two tokens with one text the likelier, which comes first
        "top_logprobs": [None if one.log_prob is None else dict(reversed(one.tops)) for one in logged],
        "text_offset": [one.start for one in logged],
    }


def usage(answers: Sequence[Answer]) -> dict[str, int]:
    """Count tokens: those of each prompt once, and those written, ends included."""
    prompts = {id(answer.row.prompt_ids): len(answer.row.prompt_ids) for answer in answers}
    prompt, written = sum(prompts.values()), sum(len(answer.row.written) for answer in answers)
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def problem(status: int, message: str) -> Json:
    """Return an error as the OpenAI API tells it."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}
