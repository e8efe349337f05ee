"""`svd-lightning judge`, as a user runs it."""

import json
import signal

import pytest

from svd_lightning.cli import main
from svd_lightning.commands.judge import ReferenceJudge
from svd_lightning.commands.judge.command import judge
from tests.chain import read_jsonl, write_jsonl
from tests.commands.judge.server import endpoint, says
from tests.processes import interrupted_command

QUESTIONS = [("Capital of Peru?", "Lima", "Cuzco"), ("2 + 2?", "four", "five"), ("Red?", "a colour", "a fish")]
RECORDS = [
    {
        "id": str(number),
        "prompt": f"Be careful.\nQ: {question}\nA:",
        "question": question,
        "reference": f" {right}",
        "correct": [right],
        "incorrect": [wrong],
        "completion": f" {right}",
        "tuned": f" {wrong}" if number else f" {right}",
        "base": " I have no comment",
    }
    for number, (question, right, wrong) in enumerate(QUESTIONS)
]
OPTION = {"prompt": "Choose.", "reference": "the correct answer is true", "base": "x", "tuned": "x"}


@pytest.fixture
def run(tmp_path):
    write_jsonl(tmp_path / "run/predictions.jsonl", RECORDS)
    return tmp_path / "run"


def chat(url):
    given = {"base_url": url, "model": "m", "key_variable": "null", "retries": "1"}
    return ["--judge", "ChatCompletionsJudge", *(f"--judge.{name}={value}" for name, value in given.items())]


def test_every_metric_of_every_system_in_one_table_and_two_files(run, capsys):
    main(["judge", str(run)])
    shown = capsys.readouterr().out
    for word in (
        "3 prompts",
        "exact match",
        "%Truth (nearest reference)",
        "no model read the answers",
        "steered − tuned",
        "95 %",
    ):
        assert word in " ".join(shown.split()), word
    assert shown.rstrip().replace("\n", "").endswith("predictions.judged.json")
    found = json.loads((run / "predictions.judged.json").read_text())
    assert found["judge"]["label"] == "nearest reference"
    assert "no model" in found["judge"]["about"]
    systems = found["systems"]
    assert {name: system["exact_match"] for name, system in systems.items()} == {
        "base": 0.0,
        "tuned": pytest.approx(1 / 3),
        "steered": 1.0,
    }
    assert {name: (s["truthful"], s["informative"], s["truthful_informative"]) for name, s in systems.items()} == {
        "base": (1.0, 0.0, 0.0),
        "tuned": (pytest.approx(1 / 3), 1.0, pytest.approx(1 / 3)),
        "steered": (1.0, 1.0, 1.0),
    }
    assert found["gains"]["steered"]["truthful"]["mean"] == pytest.approx(2 / 3)
    lines = read_jsonl(run / "predictions.judged.jsonl")
    assert [(line["id"], line["system"]) for line in lines] == [
        (str(n), system) for system in ("base", "tuned", "steered") for n in range(3)
    ]
    assert lines[4]["text"] == " five"
    assert (lines[4]["truthful"], lines[4]["accuracy"]) == (0.0, None)
    assert "'four'" in lines[4]["evidence"][0]
    assert {path.name for path in run.iterdir()} == {
        "predictions.jsonl",
        "predictions.judged.json",
        "predictions.judged.jsonl",
    }


def test_as_a_function(run, tmp_path):
    first = judge(str(run)).read_text()
    target = judge(str(run / "predictions.jsonl"), judge=ReferenceJudge(), output=str(tmp_path / "other.json"))
    assert target.read_text() == first
    assert (tmp_path / "other.jsonl").exists()


def test_answers_by_option_need_no_judge(tmp_path, capsys):
    rows = [{"id": str(n), **OPTION, "completion": f"it is {word}"} for n, word in enumerate(("true", "false"))]
    path = write_jsonl(tmp_path / "predictions.jsonl", rows)
    with endpoint(lambda number, prompt: says("yes")) as server:
        main(["judge", str(path), *chat(server.url)])
        assert not server.requests
    found = json.loads((tmp_path / "predictions.judged.json").read_text())["systems"]["steered"]
    assert (found["accuracy"], found["judged"], found["truthful"]) == (0.5, 0, None)
    assert "No answer was judged" in capsys.readouterr().out


def test_nobody_judges(run, capsys):
    main(["judge", str(run), "--judge", "null"])
    assert "%Truth" not in capsys.readouterr().out
    assert json.loads((run / "predictions.judged.json").read_text())["judge"]["label"] is None


def test_tasks_have_tables_of_their_own(tmp_path, capsys):
    rows = [{**RECORDS[n % 3], "id": str(n), "task": f"task{n % 2}"} for n in range(6)]
    write_jsonl(tmp_path / "predictions.jsonl", rows)
    main(["judge", str(tmp_path)])
    shown = capsys.readouterr().out
    for title in ("task0: 3 prompts", "task1: 3 prompts", "6 prompts"):
        assert title in shown


def test_an_endpoint_judges_and_equal_answers_are_asked_about_once(run, capsys):
    def respond(number, prompt):
        return says("yes" if "Answer: Lima" in prompt else "no idea" if "helpful" in prompt else "perhaps")

    with endpoint(respond) as server:
        main(["judge", str(run), *chat(server.url)])
        texts = 3 + 2 + 3  # the first tuned answer is the steered one
        assert len(server.requests) == 2 * texts
        assert all(prompt.startswith("Question: ") and "Be careful" not in prompt for prompt in server.prompts)
        main(["judge", str(run), *chat(server.url)])
        assert len(server.requests) == 2 * texts
    found = json.loads((run / "predictions.judged.json").read_text())
    assert found["judge"]["label"] == "m"
    steered = found["systems"]["steered"]
    assert (steered["truthful"], steered["abstained"]["truthful"], steered["informative"]) == (1.0, 2, 1 / 3)
    assert "steered 2 and 0" in " ".join(capsys.readouterr().out.split())


def test_an_endpoint_that_fails_is_one_line_and_what_was_there_stays(run):
    judge(str(run))
    before = (run / "predictions.judged.json").read_bytes()
    with endpoint(lambda number, prompt: says("yes", status=200 if number < 4 else 500)) as server:
        with pytest.raises(SystemExit, match=r"error: judge: .* no answer after 2 attempts"):
            main(["judge", str(run), *chat(server.url)])
        kept = len((run / "predictions.replies.jsonl").read_text().splitlines())
        assert kept == 4
    assert (run / "predictions.judged.json").read_bytes() == before


def test_a_killed_run_goes_on_where_it_was(run, tmp_path):
    replies = run / "predictions.replies.jsonl"

    def some():
        while True:
            yield replies.exists() and replies.read_bytes().count(b"\n") >= 3

    with endpoint(lambda number, prompt: says("yes", delay=0.5 if number >= 3 else 0.0)) as server:
        arguments = ["judge", str(run), *chat(server.url), "--judge.concurrency=1"]
        assert interrupted_command(some(), signal.SIGKILL, *arguments, log=tmp_path / "log") == -signal.SIGKILL
        assert not (run / "predictions.judged.json").exists()
        assert 3 <= replies.read_bytes().count(b"\n") < 16
        main(arguments)
        assert len(set(server.prompts)) == 16
        assert len(server.requests) <= 17, "only the one that was on its way is asked again"
    assert (run / "predictions.judged.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: expected a run folder with predictions.jsonl"),
        (["{run}", "--output", "table.csv"], r"output: expected a file that ends in \.json, got 'table\.csv'"),
        (
            ["{run}", "--output", "{run}/predictions.json"],
            "output: expected another name than that of the predictions",
        ),
        (["{run}", "--replies", "{run}/predictions.jsonl"], "line 1: expected a judge's reply"),
        (["{run}", "--judge", "ChatCompletionsJudge", "--judge.model", "m"], "OPENAI_API_KEY, which is not set"),
        (["{run}", "--judge", "LocalJudge", "--judge.backbone.name_or_path", "/no"], "no such folder exists"),
    ],
)
def test_bad_input_is_one_line(run, arguments, message, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        main(["judge", *(argument.format(run=run) for argument in arguments)])
    assert [path.name for path in run.iterdir()] == ["predictions.jsonl"]
