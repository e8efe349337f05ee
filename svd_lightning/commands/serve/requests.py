"""What a request may say (extra `serve`): fields of the OpenAI API, each with its type and bounds.

Fields of that API that are not served are refused by name, unless they ask for nothing; others are unknown.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from svd_lightning.errors import InputError, meant
from svd_lightning.steering import Distribution

NOT_SERVED: dict[str, tuple[object, ...]] = {
    "audio": (),
    "best_of": (1,),
    "frequency_penalty": (0, 0.0),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "metadata": ({},),
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (),
    "prediction": (),
    "presence_penalty": (0, 0.0),
    "prompt_cache_key": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": (),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "safety_identifier": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none",),
    "tools": ([],),
    "verbosity": (),
    "web_search_options": (),
}
"""Fields of the OpenAI API that are not served, with the values that ask for nothing; null always does."""

Prompt = str | list[int]
"""A text, or its tokens."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


def _prompts(given: object) -> object:
    """Return a list of prompts, whether one is given or several."""
    many = given if isinstance(given, list) else [given]
    if many and all(type(one) is int for one in many):
        many = [many]
    if not many or not all(_is_prompt(one) for one in many):
        raise ValueError("expected a text, a list of texts, a list of token ids, or a list of such lists")
    return many


def _is_prompt(one: object) -> bool:
    return isinstance(one, str) or (isinstance(one, list) and bool(one) and all(type(id) is int for id in one))


def _listed(given: object) -> object:
    return [given] if isinstance(given, str) else given


def _parts(given: object) -> object:
    return [{"type": "text", "text": given}] if isinstance(given, str) else given


class StreamOptions(_Strict):
    """Options of a stream."""

    include_usage: bool = False


class Request(_Strict):
    """The fields that both endpoints have."""

    endpoint: ClassVar[str]

    model: str
    distribution: Distribution | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    max_tokens: int | None = Field(None, ge=0)
    n: int | None = Field(None, ge=1)
    stop: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=256)]] | None,
        BeforeValidator(_listed),
        Field(max_length=16),
    ] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, max_length=256)
    """A name for the client's own records: it changes nothing."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_by_name(cls, body: object) -> object:
        if not isinstance(body, Mapping):
            raise ValueError("expected a JSON object")
        unserved = {name: body[name] for name in body if name in NOT_SERVED and name not in cls.model_fields}
        for name, value in unserved.items():
            if value is not None and repr(value) not in map(repr, NOT_SERVED[name]):  # False is not 0
                raise ValueError(f"{name} is not served here; leave it out")
        unknown = next((name for name in body if name not in cls.model_fields and name not in unserved), None)
        if unknown is not None:
            near = meant(unknown, cls.model_fields)
            raise ValueError(f"{unknown:.80} is no field of {cls.endpoint}{near}")
        return {name: value for name, value in body.items() if name not in unserved}

    @model_validator(mode="after")
    def _check_stream(self) -> "Request":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: expected only with stream: true")
        return self

    @property
    def choices(self) -> int:
        """How many answers each prompt gets."""
        return self.n or 1

    @property
    def tops(self) -> int | None:
        """How many of the likeliest tokens are told beside each; None without log-probabilities."""
        raise NotImplementedError

    @property
    def limit(self) -> int | None:
        """The most tokens of an answer; None leaves it to the server."""
        return self.max_tokens


class Completions(Request):
    """The body of /v1/completions."""

    endpoint = "/v1/completions"

    prompt: Annotated[list[Prompt], BeforeValidator(_prompts)]
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=5)

    @model_validator(mode="after")
    def _check_echo(self) -> "Completions":
        if self.echo and self.stream:
            raise ValueError("echo: expected only without stream")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens: expected at least 1, or echo: true with 0, got 0")
        return self

    @property
    def tops(self) -> int | None:
        """As `logprobs` says."""
        return self.logprobs


class TextPart(_Strict):
    """A part of a message; images, sound and files are not read."""

    type: Literal["text"]
    text: str


class ChatMessage(_Strict):
    """A turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[list[TextPart], BeforeValidator(_parts)]

    @property
    def text(self) -> str:
        """The content, its parts on lines of their own."""
        return "\n".join(part.text for part in self.content)


class ChatCompletions(Request):
    """The body of /v1/chat/completions."""

    endpoint = "/v1/chat/completions"

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @model_validator(mode="after")
    def _check_limits(self) -> "ChatCompletions":
        if self.max_tokens == 0:
            raise ValueError("max_tokens: expected at least 1, got 0")
        if None not in (both := {self.max_tokens, self.max_completion_tokens}) and len(both) > 1:
            raise ValueError("max_tokens: the old name of max_completion_tokens; give one of them")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: expected only with logprobs: true")
        return self

    @property
    def tops(self) -> int | None:
        """As `logprobs` and `top_logprobs` say."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def limit(self) -> int | None:
        """The most tokens of an answer, by either name."""
        return self.max_completion_tokens or self.max_tokens


def read(body: bytes, kind: type[Request]) -> Request:
    """Read the body of a request.

    Raises:
        InputError: for anything that is not such a request, with the field and the reason.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        got = (
            "" if first["type"] in ("missing", "json_invalid", "value_error") else f", got {first['input']!r:.80}"
        )
        raise InputError(f"{place}: {reason}{got}" if place else reason) from error
