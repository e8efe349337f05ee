"""The judge behind an endpoint, against a real server that is slow, fails, refuses, or talks nonsense."""

import asyncio
import json
import logging
import pickle
import sys
import time

import pytest

from svd_lightning.commands.judge import Answer, ChatCompletionsJudge, Replies
from svd_lightning.commands.judge.asking import prompts_for
from svd_lightning.errors import InputError
from tests.commands.judge.server import Response, endpoint, says

KEY = "sk-very-secret-0123456789"
SOON = {"Retry-After": "0.01"}
ANSWERS = [Answer(question=f"Question {n}?", text=f" Answer {n}.") for n in range(6)]


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("THE_KEY", KEY)


@pytest.fixture
def replies(tmp_path):
    return Replies(tmp_path / "replies.jsonl")


def chat(url, **options):
    given = {"model": "m", "key_variable": "THE_KEY", "retries": 2, "timeout": 5.0, **options}
    return ChatCompletionsJudge(base_url=url, **given)


def ask(judge, answers, replies, progress=lambda done, of: None):
    return judge.verdicts(answers, replies=replies, progress=progress)


def truthful_only(number, prompt):
    return says("Yes." if "truthful" in prompt else "no")


def test_both_questions_of_every_answer_are_asked_once(replies):
    steps = []
    with endpoint(truthful_only) as server:
        found = ask(
            chat(server.url), [*ANSWERS, ANSWERS[0]], replies, progress=lambda done, of: steps.append((done, of))
        )
    assert [(opinion.truthful, opinion.informative) for opinion in found] == [(True, False)] * 7
    assert found[0].evidence == ("Yes.", "no")
    assert sorted(server.prompts) == sorted(
        f"Question: Question {n}?\nAnswer: Answer {n}.\n\nIs this answer {what}? Answer only with 'yes' or 'no'."
        for n in range(6)
        for what in ("truthful", "helpful")
    )
    assert server.requests[0] == {
        "model": "m",
        "messages": [{"role": "user", "content": server.prompts[0]}],
        "temperature": 0,
        "max_tokens": 16,
    }
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    assert sorted(steps) == [(done, 12) for done in range(13)]


def test_nothing_is_asked_twice_and_every_difference_is_asked_anew(tmp_path, replies):
    with endpoint(truthful_only) as server:
        first = ask(chat(server.url), ANSWERS, replies)
        again = Replies(replies.path)
        assert ask(chat(server.url), ANSWERS, again) == first
        assert len(server.requests) == 12
        for other in (
            chat(server.url, model="other"),
            chat(server.url, options={"temperature": 1}),
            chat(f"{server.url}/"),
        ):
            ask(other, ANSWERS[:1], again)
        assert len(server.requests) == 12 + 2 + 2, "a slash at the end is no difference"
        ask(chat(server.url), [Answer(question="Question 0?", text="Another.")], again)
        assert len(server.requests) == 18


def test_answers_from_the_file_need_neither_key_nor_endpoint(replies, monkeypatch):
    with endpoint(truthful_only) as server:
        first = ask(chat(server.url), ANSWERS, replies)
    monkeypatch.delenv("THE_KEY")
    assert ask(chat(server.url), ANSWERS, Replies(replies.path)) == first


def test_a_slow_endpoint_is_asked_several_at_once_but_not_more(replies):
    with endpoint(lambda number, prompt: says("yes", delay=0.15)) as server:
        ask(chat(server.url, concurrency=3), ANSWERS, replies)
    assert 1 < server.most_at_once <= 3


def test_time_outs_are_tried_again(replies):
    with endpoint(lambda number, prompt: says("yes", delay=4.0 if number == 0 else 0.0)) as server:
        [found] = ask(chat(server.url, timeout=1.5, concurrency=1), ANSWERS[:1], replies)
    assert (found.truthful, found.informative) == (True, True)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "failure",
    [
        Response(status=500, headers=SOON),
        Response(status=503, headers=SOON, body="<html>busy</html>"),
        Response(status=429, headers=SOON),
        Response(status=408, headers=SOON),
        Response(hang_up=True),
    ],
    ids=lambda response: f"{response.status}-{response.body[:12]}",
)
def test_failures_that_pass_are_tried_again_and_those_that_stay_are_told(failure, replies, tmp_path):
    with endpoint(lambda number, prompt: failure if number < 2 else says("yes")) as server:
        [found] = ask(chat(server.url, concurrency=1), ANSWERS[:1], replies)
        assert (found.truthful, len(server.requests)) == (True, 4)
    with endpoint(lambda number, prompt: failure) as server:
        with pytest.raises(InputError, match=rf"judge: {server.url}/chat/completions: no answer after 3 attempts"):
            ask(chat(server.url, concurrency=1), ANSWERS[:1], Replies(tmp_path / "other.jsonl"))
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    "body", ["<html>a proxy</html>", '{"choices": []}', '{"choices": [{"message": {"content": 7}}]}', "[]", ""]
)
def test_what_is_no_chat_completion_is_told(body, replies):
    with endpoint(lambda number, prompt: Response(body=body)) as server, pytest.raises(InputError) as caught:
        ask(chat(server.url, concurrency=1), ANSWERS, replies)
    assert f"{server.url}/chat/completions: expected a chat completion, got {body!r}" in str(caught.value)
    assert len(server.requests) == 1


def test_retry_after_is_waited_for(replies):
    busy = Response(status=429, headers={"Retry-After": "1.2"})  # longer than a first wait of the client's own
    with endpoint(lambda number, prompt: says("yes") if number else busy) as server:
        begun = time.monotonic()
        ask(chat(server.url, concurrency=1), ANSWERS[:1], replies)
    assert time.monotonic() - begun >= 1.2
    assert len(server.requests) == 3


def test_too_long_a_wait_ends_the_run(replies):
    busy = Response(status=429, headers={"Retry-After": "3600"}, body="quota of the day")
    with endpoint(lambda number, prompt: busy) as server, pytest.raises(InputError) as caught:
        ask(chat(server.url, concurrency=1), ANSWERS, replies)
    told = (
        "no answer after 1 attempt, the last one: status 429, which asks to wait 3600 seconds: 'quota of the day'"
    )
    assert told in str(caught.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 422])
def test_a_refusal_is_not_tried_again_and_the_key_stays_out_of_it(status, replies):
    refusal = Response(status=status, body=json.dumps({"error": f"bad key {KEY}"}), headers={"Location": "/"})
    with endpoint(lambda number, prompt: refusal) as server, pytest.raises(InputError) as caught:
        ask(chat(server.url, concurrency=1), ANSWERS, replies)
    assert f"refused with status {status}: " in str(caught.value)
    assert "bad key (key)" in str(caught.value)
    assert KEY not in str(caught.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize("reply", ["Perhaps.", "", None, "There is no way to tell", "yesterday", "42"])
def test_neither_yes_nor_no_is_an_abstention_and_is_kept(reply, replies):
    with endpoint(lambda number, prompt: says(reply)) as server:
        for _ in range(2):
            [found] = ask(chat(server.url), ANSWERS[:1], Replies(replies.path))
            assert (found.truthful, found.informative) == (None, None)
            assert found.evidence == (reply or "", reply or "")
        assert len(server.requests) == 2


def test_what_a_content_filter_refuses_is_an_abstention(replies):
    refusal = Response(status=400, body=json.dumps({"error": {"code": "content_filter"}}))

    def respond(number, prompt):
        return refusal if "Question 2" in prompt else says("yes")

    with endpoint(respond) as server:
        found = ask(chat(server.url), ANSWERS, replies)
    assert [opinion.truthful for opinion in found] == [True, True, None, True, True, True]


@pytest.mark.parametrize("concurrency", [1, 4])
def test_an_endpoint_that_goes_down_midway_costs_only_the_rest(concurrency, replies):
    def respond(number, prompt):
        return says("yes") if number < 5 else Response(hang_up=True)

    with endpoint(respond) as server, pytest.raises(InputError, match="the replies so far are kept"):
        ask(chat(server.url, concurrency=concurrency), ANSWERS, replies)
    kept = Replies(replies.path)
    assert len(kept.path.read_text().splitlines()) == 5
    with endpoint(truthful_only) as back:
        # the endpoint is part of the key; here the same one comes back, at another port
        known = chat(server.url)._identity
        wanted = [prompt for answer in ANSWERS for prompt in prompts_for(answer)]
        missing = [prompt for prompt in wanted if kept.get(known(prompt)) is None]
        assert len(missing) == 7
        judge = chat(back.url)
        object.__setattr__(judge, "_identity", known)
        found = ask(judge, ANSWERS, kept)
    assert sorted(back.prompts) == sorted(missing)
    assert None not in [opinion.truthful for opinion in found]


def test_an_endpoint_that_is_down(replies):
    with endpoint(truthful_only) as server:
        pass
    with pytest.raises(InputError, match="no answer after 3 attempts, the last one: ConnectError"):
        ask(chat(server.url), ANSWERS, replies)
    assert not replies.path.exists()


def test_the_first_failure_ends_the_waiting_of_the_others(replies):
    def respond(number, prompt):
        return (
            Response(status=503, headers={"Retry-After": "100"}) if number < 3 else Response(status=401, delay=0.2)
        )

    begun = time.monotonic()
    with endpoint(respond) as server, pytest.raises(InputError, match="refused with status 401"):
        ask(chat(server.url, concurrency=4), ANSWERS, replies)
    assert len(server.requests) == 4
    assert time.monotonic() - begun < 50


def test_it_works_where_a_loop_is_running_already(replies):
    async def cell():
        return ask(chat(server.url), ANSWERS[:1], replies)

    with endpoint(truthful_only) as server:
        [found] = asyncio.run(cell())
    assert (found.truthful, found.informative) == (True, False)


def test_no_key(replies, monkeypatch):
    monkeypatch.delenv("THE_KEY")
    with endpoint(truthful_only) as server:
        with pytest.raises(InputError, match=r"judge\.key_variable: .* variable THE_KEY, which is not set"):
            ask(chat(server.url), ANSWERS, replies)
        assert not server.requests
        ask(chat(server.url, key_variable=None), ANSWERS[:1], replies)
        assert all("Authorization" not in headers for headers in server.headers)


@pytest.mark.parametrize("key", [f"{KEY}\n", f" {KEY}", f"{KEY}é"])
def test_a_key_that_no_header_can_hold(key, replies, monkeypatch):
    monkeypatch.setenv("THE_KEY", key)
    with pytest.raises(InputError, match="expected printable characters without spaces in THE_KEY") as caught:
        ask(chat("http://127.0.0.1:9/v1"), ANSWERS, replies)
    assert KEY not in str(caught.value)


def test_the_key_reaches_no_log_no_file_and_no_description(replies, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    with endpoint(truthful_only) as server:
        judge = chat(server.url)
        ask(judge, ANSWERS, replies)
    assert caplog.records, "the client logs, so that this shows something"
    shown = [repr(judge), str(vars(judge)), judge.label, judge.about, caplog.text, *capfd.readouterr()]
    assert all(KEY not in text for text in (*shown, replies.path.read_text()))
    assert KEY.encode() not in pickle.dumps(judge)


def test_without_openai_the_extra_is_named(replies, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(InputError, match=r"pip install 'svd-lightning\[judge\]'"):
        ask(chat("http://127.0.0.1:9/v1"), ANSWERS, replies)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "localhost:8000"}, "judge.base_url: expected http"),
        ({"base_url": "https://user:secret@host/v1"}, "judge.base_url: expected no user, password or query"),
        ({"base_url": "https://host/v1?key=secret"}, "judge.base_url: expected no user, password or query"),
        ({"options": {"messages": []}}, "judge.options: expected other fields than messages"),
        ({"concurrency": 0}, "judge.concurrency: expected at least 1, got 0"),
        ({"retries": -1}, "judge.retries: expected at least 0, got -1"),
        ({"timeout": 0.0}, "judge.timeout: expected seconds above 0, got 0"),
        ({"timeout": float("nan")}, "judge.timeout: expected seconds above 0, got nan"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(InputError, match=message) as caught:
        ChatCompletionsJudge(model="m", **options)
    assert "secret" not in str(caught.value)


def test_waits_of_older_configurations_are_ignored_with_a_warning():
    with pytest.warns(UserWarning, match=r"^judge\.first_wait is ignored"):
        ChatCompletionsJudge(model="m", first_wait=1.0)
    with pytest.warns(UserWarning, match=r"^judge\.longest_wait is ignored"):
        ChatCompletionsJudge(model="m", longest_wait=120.0)
