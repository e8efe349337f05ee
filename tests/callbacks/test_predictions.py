"""predictions.jsonl: complete, in order, once."""

import json
from dataclasses import replace

import pytest

from svd_lightning.callbacks import PredictionWriter
from svd_lightning.data import JSONLData, TruthfulQA
from svd_lightning.errors import InputError
from svd_lightning.steering import Steering
from tests.callbacks.predicting import predict
from tests.chain import diary_data, diary_model, read_jsonl


def test_complete_and_in_order_and_where_it_is_said(fitted, diaries, tmp_path):
    target = tmp_path / "new" / "out.jsonl"
    predict(tmp_path, fitted, diary_data(diaries, eval_batch_size=4), PredictionWriter(output=str(target)))
    rows, prompts = read_jsonl(target), read_jsonl(diaries / "predict.jsonl")
    assert [row["id"] for row in rows] == [row["id"] for row in prompts]
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in prompts]
    assert [row["reference"] for row in rows] == [row["completion"] for row in prompts]
    assert {frozenset(row) for row in rows} == {frozenset(["id", "prompt", "reference", "completion"])}
    assert all(row["completion"] for row in rows)
    assert [path.name for path in target.parent.iterdir()] == ["out.jsonl"], "no parts are left"


def test_compare_adds_base_and_tuned(fitted, diaries, tmp_path):
    predict(tmp_path, fitted, diary_data(diaries), PredictionWriter(compare=True))
    rows = read_jsonl(tmp_path / "run/version_0/predictions.jsonl")
    assert all(set(row) == {"id", "prompt", "reference", "completion", "base", "tuned"} for row in rows)
    found = []
    for steering in (Steering(strengths=[0.0], penalty=0.0), Steering(strengths=[0.0])):
        target = tmp_path / f"{steering.penalty}.jsonl"
        predict(
            tmp_path,
            fitted,
            diary_data(diaries),
            PredictionWriter(output=str(target)),
            diary_model(steering=steering),
        )
        found.append([row["completion"] for row in read_jsonl(target)])
    assert found[0] == found[1] == [row["tuned"] for row in rows], "greedy: the mask changes no choice"


def test_an_existing_file_is_never_overwritten(fitted, diaries, tmp_path):
    target = tmp_path / "out.jsonl"
    target.write_text("mine\n")
    with pytest.raises(InputError, match=r"predict\.output: expected a new file, got .* which exists"):
        predict(tmp_path, fitted, diary_data(diaries), PredictionWriter(output=str(target)))
    assert target.read_text() == "mine\n"


def test_text_of_every_kind_stays_one_line_each(fitted, diaries, tmp_path):
    prompts = [{"prompt": "winter\non the\u2028coast \u0085 snow \x1e ☃", "id": "a/ä"}]
    path = tmp_path / "odd.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in prompts))
    target = tmp_path / "out.jsonl"
    predict(tmp_path, fitted, diary_data(diaries, predict_path=str(path)), PredictionWriter(output=str(target)))
    [row] = [json.loads(line) for line in target.read_text(encoding="utf-8").split("\n") if line]
    assert (row["id"], row["prompt"]) == ("a/ä", prompts[0]["prompt"])


def test_several_sequences_are_a_list(fitted, diaries, tmp_path):
    module = diary_model(generation={"num_beams": 2, "num_return_sequences": 2, "max_new_tokens": 4})
    target = tmp_path / "out.jsonl"
    predict(tmp_path, fitted, diary_data(diaries), PredictionWriter(output=str(target)), module)
    assert all(len(row["completion"]) == 2 for row in read_jsonl(target))


def test_what_the_data_know_of_a_question_goes_with_it(fitted, tmp_path):
    columns = "Category,Question,Best Answer,Correct Answers,Incorrect Answers"
    rows = [f"Places,Where is {n}?,In {n},In {n}; There,Nowhere; On {n}" for n in range(12)]
    (tmp_path / "questions.csv").write_text("\n".join([columns, *rows]))
    data = TruthfulQA(
        str(tmp_path / "questions.csv"), template="Reply briefly. {question}\n", max_length=64, test=3
    )
    predict(tmp_path, fitted, data, PredictionWriter(output=str(tmp_path / "out.jsonl")))
    found = read_jsonl(tmp_path / "out.jsonl")
    assert len(found) == 3
    for row in found:
        number = row["id"]
        assert {name: row[name] for name in ("prompt", "reference", "question", "correct", "incorrect")} == {
            "prompt": f"Reply briefly. Where is {number}?\n",
            "reference": f" In {number}",
            "question": f"Where is {number}?",
            "correct": [f"In {number}", "There"],
            "incorrect": ["Nowhere", f"On {number}"],
        }


def test_the_task_goes_with_it(fitted, diaries, tmp_path):
    class TwoTasks(JSONLData):
        def load_given_splits(self):
            splits = super().load_given_splits()
            named = [replace(example, task=f"t{n % 2}") for n, example in enumerate(splits["predict"])]
            return {**splits, "predict": named}

    data = TwoTasks(str(diaries / "train.jsonl"), predict_path=str(diaries / "predict.jsonl"), max_length=64)
    predict(tmp_path, fitted, data, PredictionWriter(output=str(tmp_path / "out.jsonl")))
    assert [row["task"] for row in read_jsonl(tmp_path / "out.jsonl")] == ["t0", "t1"] * 3
