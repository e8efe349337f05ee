"""Bad requests: each gets a 4xx that says why, and the server goes on."""

import http.client
import json
import typing
from dataclasses import replace

import openai
import pytest
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params

from svd_lightning.commands.serve.requests import NOT_SERVED, ChatCompletions, Completions
from tests.commands.serve.serving import LIMITS, NAME, client, health, post, serving

TEXT, CHAT = "/v1/completions", "/v1/chat/completions"
GOOD = {"model": NAME, "prompt": "a"}


def text(**fields):
    return TEXT, {**GOOD, **fields}


def chat(messages, **fields):
    return CHAT, {"model": NAME, "messages": messages, **fields}


def user(content):
    return [{"role": "user", "content": content}]


PATHS = ["/etc/passwd", "../../../etc/passwd", "file:///etc/passwd", "..\\..\\secret", "/dev/zero"]

BAD = {
    "no JSON": ((TEXT, b"{"), "Invalid JSON"),
    "bytes": ((TEXT, b"\xff\xfe\x00"), "Invalid JSON"),
    "no object": ((TEXT, b"[]"), "expected a JSON object"),
    "deep": ((TEXT, b"[" * 100_000), "Invalid JSON"),
    "no model": ((TEXT, {"prompt": "a"}), "model: Field required"),
    "no prompt": ((TEXT, {"model": NAME}), "prompt: Field required"),
    "empty prompt": (text(prompt=[]), "prompt: expected a text"),
    "prompt of the wrong type": (text(prompt={"a": 1}), "prompt: expected a text"),
    "prompts of two types": (text(prompt=["a", 1]), "prompt: expected a text"),
    "token beyond the vocabulary": (text(prompt=[10**9]), "prompt: expected token ids from 0 to "),
    "negative token": (text(prompt=[-1]), "prompt: expected token ids from 0 to "),
    "truth for a token": (text(prompt=[True]), "prompt: expected a text"),
    "long prompt": (text(prompt="a " * 5000), "prompt: expected at most 130 tokens, got 5001"),
    "huge prompt": (text(prompt="a" * 3 * 2**20), "Content Too Large"),
    "half a character": ((TEXT, b'{"model": "diaries", "prompt": "\\ud800"}'), "Invalid JSON"),
    "too many answers": (text(n=17), "n: expected at most 16 answers of a request, got 17"),
    "too many prompts": (text(prompt=["a"] * 9, n=2), "n: expected at most 16 answers of a request, got 18"),
    "words for numbers": (text(max_tokens="5"), "max_tokens: Input should be a valid integer, got '5'"),
    "truth for a number": (text(max_tokens=True), "max_tokens: Input should be a valid integer"),
    "half a token": (text(max_tokens=1.5), "max_tokens: Input should be a valid integer"),
    "no tokens": (text(max_tokens=0), "max_tokens: expected at least 1"),
    "negative tokens": (text(max_tokens=-1), "max_tokens: Input should be greater than or equal to 0"),
    "many tokens": (text(max_tokens=10**9), "max_tokens: expected at most 100, got 1000000000"),
    "more than the context": (text(prompt="a " * 60, max_tokens=100), "the model's context holds 128 tokens"),
    "a prompt that fills the context": (
        text(prompt=[4] * 128, max_tokens=3),
        "prompt: its 128 tokens fill the model's",
    ),
    "a prompt beyond the context": (
        text(prompt=[4] * 129, max_tokens=0, echo=True),
        "prompt: its 129 tokens fill the model's context of 128; shorten it",
    ),
    "digits without end": (
        (TEXT, b'{"model": "diaries", "prompt": "a", "seed": %s}' % (b"9" * 9000)),
        "Invalid JSON",
    ),
    "negative temperature": (text(temperature=-1), "temperature: Input should be greater than or equal to 0"),
    "no number": ((TEXT, b'{"model": "diaries", "prompt": "a", "temperature": NaN}'), "temperature: "),
    "top_p": (text(top_p=0), "top_p: Input should be greater than 0"),
    "seed": (text(seed=2**63), "seed: Input should be less than"),
    "empty stop": (text(stop=[""]), "stop.0: String should have at least 1 character"),
    "many stops": (text(stop=["x"] * 17), "stop: Value should have at most 16 items"),
    "many log-probabilities": (text(logprobs=10**6), "logprobs: Input should be less than or equal to 5"),
    "distribution": (text(distribution="best"), "distribution: Input should be 'base', 'tuned' or 'steered'"),
    "misspelt": (text(temprature=1), "temprature is no field of /v1/completions; did you mean temperature?"),
    "unknown": (text(**{"x" * 1000: 1}), "is no field of /v1/completions"),
    "not served": (text(suffix="end"), "suffix is not served here; leave it out"),
    "a penalty": (text(frequency_penalty=0.5), "frequency_penalty is not served here"),
    "echo in a stream": (text(echo=True, stream=True), "echo: expected only without stream"),
    "options of no stream": (text(stream_options={"include_usage": True}), "stream_options: expected only with"),
    "no messages": (chat([]), "messages: List should have at least 1 item"),
    "a role": (chat([{"role": "tool", "content": "a"}]), "messages.0.role: Input should be 'system', 'user'"),
    "an image": (
        chat(user([{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}])),
        "messages.0.content.0.type: Input should be 'text', got 'image_url'",
    ),
    "a file": (
        chat(user([{"type": "file", "file": {"file_data": "/etc/passwd"}}])),
        "messages.0.content.0.type: Input should be 'text', got 'file'",
    ),
    "tools": (chat(user("a"), tools=[{"type": "function"}]), "tools is not served here"),
    "a format": (chat(user("a"), response_format={"type": "json_object"}), "response_format is not served here"),
    "two limits": (chat(user("a"), max_tokens=1, max_completion_tokens=2), "max_tokens: the old name of"),
    "top without logprobs": (chat(user("a"), top_logprobs=2), "top_logprobs: expected only with logprobs"),
    **{f"model {path}": ((TEXT, {**GOOD, "model": path}), "model: expected one of diaries, ") for path in PATHS},
}


@pytest.fixture(scope="module")
def address(module):
    with serving(module, limits=replace(LIMITS, prompt_tokens=130)) as address:
        yield address


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_its_reason(name, address):
    (path, body), reason = BAD[name]
    status, said = post(address, path, body)
    assert 400 <= status < 500, said
    message = said if status == 413 else json.loads(said)["error"]["message"]
    assert reason in message
    assert "\n" not in message
    assert len(message) < 300
    assert "Traceback" not in said


@pytest.mark.parametrize("path", PATHS)
def test_paths_in_requests_are_never_opened(path, address, capfd):
    """They are names and texts like others."""
    assert post(address, TEXT, {**GOOD, "prompt": path, "user": path})[0] == 200
    assert post(address, CHAT, {"model": NAME, "messages": user(path)})[0] == 200
    for wrong in (f"/v1/models/{path}", f"/{path}", f"/v1/completions/{path}", f"/static/{path}"):
        connection = http.client.HTTPConnection(address, timeout=60)
        connection.request("GET", wrong.replace("\\", "%5C"))
        reply = connection.getresponse()
        assert reply.status == 404, wrong
        assert "root:" not in reply.read().decode()
        connection.close()


def test_only_json_is_read(address):
    assert post(address, TEXT, GOOD, content_type="text/plain")[0] == 415
    assert post(address, TEXT, GOOD, content_type="application/json; charset=utf-8")[0] == 200


def test_after_all_that_it_answers(address):
    assert client(address).completions.create(model=NAME, prompt="a").choices
    assert health(address)["answers"] == 0


@pytest.mark.parametrize("value", [None, 0, 0.0])
def test_fields_that_ask_for_nothing_may_be_there(value, address):
    assert post(address, TEXT, {**GOOD, "frequency_penalty": value, "best_of": 1, "n": None})[0] == 200


@pytest.mark.parametrize(
    ("kind", "params"),
    [(Completions, completion_create_params), (ChatCompletions, chat_create_params)],
    ids=["completions", "chat"],
)
def test_every_field_of_the_client_is_served_or_named(kind, params):
    sent = set(typing.get_type_hints(params.CompletionCreateParamsNonStreaming))
    assert sent <= set(kind.model_fields) | set(NOT_SERVED)
    assert not set(Completions.model_fields) & set(NOT_SERVED)


def test_a_run_without_strengths_answers_by_the_other_two(module):
    before, module.steering = module.steering, module.configured
    try:
        with serving(module) as address:
            for name in ("base", "tuned"):
                assert post(address, TEXT, {**GOOD, "distribution": name})[0] == 200
            with pytest.raises(openai.BadRequestError, match="no strengths to steer with; ask for tuned or base"):
                client(address).completions.create(**GOOD)
    finally:
        module.steering = before


def test_without_a_template_there_is_no_conversation(module):
    before, module.tokenizer.chat_template = module.tokenizer.chat_template, None
    try:
        with serving(module) as address:
            status, said = post(address, CHAT, {"model": NAME, "messages": user("a")})
        assert (status, "no chat template; use /v1/completions" in said) == (400, True)
    finally:
        module.tokenizer.chat_template = before
