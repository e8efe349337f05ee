"""Reading what predict has written, and refusing what it has not."""

import pytest

from svd_lightning.commands.judge.predictions import predictions_path, read_predictions
from svd_lightning.errors import InputError
from tests.chain import write_jsonl

PLAIN = {"id": "1", "prompt": "Q: Who?\nA:", "reference": " Nobody", "completion": " Me"}


def read(tmp_path, *records):
    return read_predictions(write_jsonl(tmp_path / "predictions.jsonl", records))


def test_a_plain_record(tmp_path):
    [row] = read(tmp_path, PLAIN)
    assert (row.id, row.question, row.correct, row.incorrect) == ("1", "Q: Who?\nA:", ("Nobody",), ())
    assert (row.task, row.label, row.texts) == (None, None, {"steered": (" Me",)})


def test_a_record_with_all_there_is(tmp_path):
    more = {"base": " a", "tuned": " b", "task": "t", "question": "Who?", "correct": ["No one", "Nobody"]}
    [row] = read(tmp_path, {**PLAIN, **more, "incorrect": ["You "]})
    assert (row.question, row.correct, row.incorrect, row.task) == (
        "Who?",
        ("Nobody", "No one"),
        ("You",),
        "t",
    )
    assert row.texts == {"base": (" a",), "tuned": (" b",), "steered": (" Me",)}
    answer = row.answer(" b")
    assert (answer.question, answer.text, answer.correct, answer.incorrect) == (
        "Who?",
        " b",
        ("Nobody", "No one"),
        ("You",),
    )


def test_several_sampled_completions(tmp_path):
    [row] = read(tmp_path, {**PLAIN, "completion": [" a", " b"], "tuned": [" c", " d"]})
    assert row.texts == {"tuned": (" c", " d"), "steered": (" a", " b")}


def test_prompts_alone_have_no_right_answers(tmp_path):
    [row] = read(tmp_path, {**PLAIN, "reference": ""})
    assert (row.correct, row.label) == ((), None)


def test_the_option_that_the_reference_names(tmp_path):
    [row] = read(tmp_path, {**PLAIN, "reference": " the correct answer is option2"})
    assert row.label == "option2"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"completion": None}, "predictions.jsonl, line 2: expected a list of texts in 'completion', got None"),
        ({"completion": [1]}, "line 2: expected a list of texts in 'completion'"),
        ({"correct": "Nobody"}, "line 2: expected a list of texts in 'correct', got 'Nobody'"),
        ({"reference": 3}, "line 2: expected text in 'reference', got 3"),
        ({"task": 3}, "line 2: expected text in 'task', got 3"),
        ({"tuned": " a"}, "expected the same completions in every record.*record '2' differs"),
        ({"completion": [" a", " b"]}, "expected the same completions in every record.*record '2' differs"),
    ],
)
def test_what_predict_did_not_write(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, PLAIN, {**PLAIN, "id": "2", **change})


def test_as_many_tuned_as_steered(tmp_path):
    with pytest.raises(InputError, match="record '1' differs"):
        read(tmp_path, {**PLAIN, "tuned": [" a", " b"]})


def test_other_records_are_refused(tmp_path):
    with pytest.raises(InputError, match="line 1: expected the column 'prompt', got 'text'"):
        read(tmp_path, {"text": "hello"})


def test_where_predictions_are(tmp_path):
    path = write_jsonl(tmp_path / "predictions.jsonl", [PLAIN])
    assert predictions_path(str(tmp_path)) == predictions_path(str(path)) == path
    for place in (tmp_path / "nowhere", tmp_path / "nowhere.jsonl"):
        with pytest.raises(InputError, match=r"expected a run folder with predictions\.jsonl, or such a file"):
            predictions_path(str(place))
