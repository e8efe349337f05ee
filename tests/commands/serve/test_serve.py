"""The server over HTTP with OpenAI's own client, against the package's decoding and scoring."""

import math

import openai
import pytest
import torch

from svd_lightning.commands.serve.limits import Limits
from svd_lightning.decoding.generation import generate
from svd_lightning.scoring.labels import score_tokens
from svd_lightning.steering import UNSTEERED, AdapterScale, Corrected, KLGradient, Steering
from tests.commands.serve.serving import NAME, Gate, client, health, post, serving, wait_for

PROMPTS = (
    "winter on the moor , by a monk :",
    "summer on the island , by a teacher :",
    "spring :",
    "winter on the steppe , by a miller : cold night with snow ,",
    "a",
)
STRONG = Steering([KLGradient()], [40.0], penalty=-math.inf)


@pytest.fixture(scope="module")
def address(module):
    with serving(module) as address:
        yield address


@pytest.fixture
def ask(address):
    """Returns a completion of the client; keywords beside those of the API go into the body."""
    completions = client(address).completions

    def ask(prompt, *, distribution=None, **options):
        extra = {} if distribution is None else {"distribution": distribution}
        return completions.create(model=NAME, prompt=prompt, extra_body=extra, **options)

    return ask


def expected(module, prompt, steering):
    """What generate writes; not while a server writes with the same model, which one thread at a time may run."""
    batch = module.tokenizer(prompt, return_tensors="pt")
    config, tokenizer = module.generation, module.tokenizer
    return generate(module.peft_model, batch, steering, config=config, tokenizer=tokenizer)[0][0]


def streamed(stream):
    """The text of each choice, and how many chunks said something."""
    texts, pieces = {}, 0
    for chunk in stream:
        for choice in chunk.choices:
            new = choice.text if hasattr(choice, "text") else choice.delta.content
            texts[choice.index] = texts.get(choice.index, "") + (new or "")
            pieces += bool(new)
    return [texts[index] for index in sorted(texts)], pieces


@pytest.mark.parametrize("name", [None, "base", "tuned", "steered"])
def test_answers_are_those_of_generate_in_batches_too(name, module, ask):
    steering = {**UNSTEERED, "steered": module.steering}[name or "steered"]
    wanted = [expected(module, prompt, steering) for prompt in PROMPTS]
    assert [choice.text for choice in ask(list(PROMPTS), distribution=name).choices] == wanted
    assert [ask(prompt, distribution=name).choices[0].text for prompt in PROMPTS] == wanted


def test_a_models_name_may_choose_the_distribution(address, ask):
    """For clients that send no fields of their own."""
    create = client(address).completions.create
    for name in ("base", "tuned", "steered"):
        texts = [create(model=f"{NAME}:{name}", prompt=prompt).choices[0].text for prompt in PROMPTS[:2]]
        assert texts == [ask(prompt, distribution=name).choices[0].text for prompt in PROMPTS[:2]]
    with pytest.raises(openai.BadRequestError, match="diaries:base stands for base, got tuned"):
        create(model=f"{NAME}:base", prompt="a", extra_body={"distribution": "tuned"})


def test_the_three_distributions_differ_here(module, ask):
    """Or the test before this one says nothing."""
    answers = {
        name: [ask(one, distribution=name).choices[0].text for one in PROMPTS] for name in ("base", "tuned")
    }
    assert answers["base"] != answers["tuned"]


@pytest.mark.parametrize("options", [{}, {"temperature": 1.2, "seed": 3, "n": 2}, {"stop": [" snow", "hail ,"]}])
def test_a_stream_says_what_a_whole_answer_says(options, ask):
    whole = ask(list(PROMPTS), **options)
    texts, pieces = streamed(ask(list(PROMPTS), stream=True, **options))
    assert texts == [choice.text for choice in whole.choices]
    assert pieces > 2 * len(texts)


def test_a_stream_tells_the_usage_on_request(ask):
    *_, last = ask(PROMPTS[0], stream=True, max_tokens=3, stream_options={"include_usage": True})
    assert last.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": 10,
        "completion_tokens": 3,
        "total_tokens": 13,
    }
    assert last.usage == ask(PROMPTS[0], max_tokens=3).usage


def test_conversations(module, address):
    chat = client(address).chat.completions
    turns = [{"role": "user", "content": "winter on the moor , by a monk"}]
    whole = chat.create(model=NAME, messages=turns, logprobs=True, top_logprobs=2)
    [choice] = whole.choices
    assert choice.message.content == expected(module, f"{turns[0]['content']} :", module.steering)
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "stop"
    assert "".join(one.token for one in choice.logprobs.content) == choice.message.content.replace(" ", "")
    assert all(one.top_logprobs[0].logprob >= one.logprob for one in choice.logprobs.content)
    texts, _ = streamed(chat.create(model=NAME, messages=turns, stream=True))
    assert texts == [choice.message.content]
    parts = [{"role": "user", "content": [{"type": "text", "text": turns[0]["content"]}]}]
    assert chat.create(model=NAME, messages=parts).choices[0].message.content == choice.message.content


def test_seeds_make_draws_and_each_choice_has_its_own(ask):
    def draw(seed, n=4):
        return [one.text for one in ask(PROMPTS[0], temperature=1.5, seed=seed, n=n, max_tokens=8).choices]

    assert draw(7) == draw(7)
    assert draw(7) != draw(8)
    assert len(set(draw(7))) > 1
    assert draw(8, n=3) == draw(7)[1:], "the second choice has the next seed"
    for cold in (0, 1e-7, 1e-40, 1e-300):  # a float32 divided by these is infinite
        assert ask(PROMPTS[0], temperature=cold).choices[0].text == ask(PROMPTS[0]).choices[0].text


def test_a_stop_string_ends_the_text_before_it(ask):
    [whole] = ask(PROMPTS[0]).choices
    word = whole.text.split()[3]
    [cut] = ask(PROMPTS[0], stop=[f" {word}"], logprobs=0).choices
    assert cut.text == whole.text[: whole.text.index(f" {word}")]
    assert cut.finish_reason == "stop"
    assert len(cut.logprobs.tokens) == 3
    assert ask(PROMPTS[0], max_tokens=2).choices[0].finish_reason == "length"


def test_log_probabilities_of_prompts_are_those_of_scoring(module, ask):
    ids = module.tokenizer(PROMPTS[3])["input_ids"]
    row = torch.tensor([ids])
    batch = {"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row}
    with torch.no_grad():
        scores = score_tokens(module.peft_model, batch, module.steering)
    for name in ("base", "tuned", "steered"):
        for prompt, new in ((PROMPTS[3], 0), (ids, 1)):
            [choice] = ask(prompt, distribution=name, echo=True, logprobs=1, max_tokens=new).choices
            logged = choice.logprobs
            assert logged.token_logprobs[0] is None
            assert len(logged.tokens) == len(ids) + new
            found = torch.tensor(logged.token_logprobs[1 : len(ids)])
            torch.testing.assert_close(found, getattr(scores, name), atol=1e-5, rtol=1e-5)
            assert all(
                max(top.values()) >= one - 1e-6 for one, top in zip(found, logged.top_logprobs[1:], strict=False)
            )


def test_a_penalty_that_forbids_is_kept(module, ask):
    before, module.steering = module.steering, STRONG
    try:
        found = [ask(prompt).choices[0].text for prompt in PROMPTS]
        assert found == [expected(module, prompt, STRONG) for prompt in PROMPTS]
    finally:
        module.steering = before


def test_answers_of_two_adapter_scales_come_from_batches_of_their_own(module, address):
    before, module.steering = module.steering, Corrected.of(module.configured, AdapterScale(1.5))
    try:
        steerings = {"steered": module.steering, "tuned": UNSTEERED["tuned"]}
        asked = [(name, prompt) for prompt in PROMPTS[:3] for name in steerings]
        wanted = [expected(module, prompt, steerings[name]) for name, prompt in asked]
        create = client(address).completions.create
        streams = [create(model=f"{NAME}:{name}", prompt=prompt, stream=True) for name, prompt in asked]
        assert [streamed(stream)[0][0] for stream in streams] == wanted
        assert len(set(wanted)) > 3, "the scale changes nothing"
    finally:
        module.steering = before


def test_models_and_health(address):
    models = client(address).models
    assert [one.id for one in models.list()] == [NAME, *(f"{NAME}:{one}" for one in ("base", "tuned", "steered"))]
    assert models.retrieve(f"{NAME}:base").id == f"{NAME}:base"
    with pytest.raises(openai.NotFoundError, match=r"model: expected one of diaries, diaries:base, .*got 'other'"):
        models.retrieve("other")
    assert health(address) == {"status": "ok", "answers": 0, "waiting": 0, "places": 16}


@pytest.fixture
def gate(module):
    """The steered distribution of the run, closed."""
    before, module.steering = module.steering, Gate()
    yield module.steering
    module.steering.open.set()
    module.steering = before


def begin(address, count):
    """Ask for answers that wait at the gate; closing a stream is going away."""
    ask = client(address).completions.create
    return [ask(model=NAME, prompt=PROMPTS[n], stream=True, max_tokens=6) for n in range(count)]


def test_a_full_server_says_so_and_answers_what_it_has_taken(module, gate):
    limits = Limits(prompt_tokens=64, new_tokens=100, answers=3)
    wanted = [" ".join(expected(module, prompt, UNSTEERED["base"]).split()[:6]) for prompt in PROMPTS[:3]]
    with serving(module, batch_size=1, limits=limits) as address:
        streams = begin(address, 3)
        wait_for(lambda: health(address)["waiting"] == 2 and gate.entered.is_set())
        with pytest.raises(openai.RateLimitError, match="3 of 3 places are taken; try again later") as caught:
            begin(address, 1)
        assert caught.value.response.headers["retry-after"] == "1"
        gate.open.set()
        assert [streamed(one)[0][0].strip() for one in streams] == wanted
        wait_for(lambda: health(address)["answers"] == 0)


def test_clients_that_go_away_free_their_places_and_stop(module, gate):
    with serving(module, batch_size=2) as address:
        streams = begin(address, 4)
        wait_for(gate.entered.is_set)
        with pytest.raises(openai.APITimeoutError):
            client(address, timeout=0.3).completions.create(model=NAME, prompt=PROMPTS[0])
        for stream in streams:
            stream.close()
        wait_for(lambda: health(address)["answers"] == 0)
        assert not gate.open.is_set(), "their places are free while the model still computes"
        gate.open.set()
        [choice] = (
            client(address)
            .completions.create(model=NAME, prompt=PROMPTS[0], extra_body={"distribution": "base"})
            .choices
        )
        assert choice.text == expected(module, PROMPTS[0], UNSTEERED["base"])
        assert gate.rows <= 4, "one step of those that were being written, not six"


def test_an_answer_that_takes_too_long_is_given_up(module, gate):
    with serving(module, timeout=0.3) as address:
        with pytest.raises(openai.InternalServerError, match="the answer took too long") as caught:
            client(address).completions.create(model=NAME, prompt=PROMPTS[0])
        assert caught.value.status_code == 504
        with pytest.raises(openai.APIError, match="the answer took too long"):
            streamed(begin(address, 1)[0])
        assert health(address)["answers"] == 0
        gate.open.set()


def test_a_server_that_stops_tells_those_who_wait(module, gate):
    with serving(module, batch_size=1) as address:
        [stream] = begin(address, 1)
        wait_for(gate.entered.is_set)
        address.server.should_exit = True
        with pytest.raises(openai.APIError, match="the server stops"):
            streamed(stream)
        gate.open.set()


class Broken:
    """Steering that fails."""

    calibrated, reads_base, forbids = True, False, False

    def __call__(self, tuned, base):
        raise RuntimeError("secret path /home/someone")


def test_a_failure_concerns_its_own_request_and_tells_nothing_of_the_machine(module):
    before, module.steering = module.steering, Broken()
    try:
        with serving(module) as address:
            completions = client(address).completions
            stream = completions.create(
                model=NAME, prompt=PROMPTS[1], stream=True, extra_body={"distribution": "tuned"}
            )
            with pytest.raises(openai.InternalServerError, match="the model failed") as caught:
                completions.create(model=NAME, prompt=PROMPTS[0])
            assert "secret" not in str(caught.value)
            assert streamed(stream)[0] == [expected(module, PROMPTS[1], UNSTEERED["tuned"])]
    finally:
        module.steering = before


def test_a_key_lets_in_and_its_lack_does_not(module):
    body = {"model": NAME, "prompt": "a"}
    with serving(module, key="secret") as address:
        assert client(address, api_key="secret").completions.create(**body).choices
        for wrong in ("", "secret", "Bearer", "Bearer Secret", "Bearer secre", "Bearer secret ,", "Bearer sécret"):
            status, said = post(address, "/v1/completions", body, authorization=wrong)
            assert (status, "expected the key of this server" in said) == (401, True), wrong
        with pytest.raises(openai.AuthenticationError, match="expected the key of this server"):
            client(address, api_key="other").models.list()
        assert health(address)["status"] == "ok"
