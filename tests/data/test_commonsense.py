"""The templates against LLM-Adapters' files: real rows taken apart into the hub's columns and built again."""

import json
import re

import pytest
from datasets import Dataset

from svd_lightning.data import (
    ARC,
    PIQA,
    SIQA,
    BoolQ,
    CommonsenseJSON,
    HellaSwag,
    OpenBookQA,
    WinoGrande,
    source_rows,
)
from svd_lightning.data.source_rows import SourceRow
from svd_lightning.errors import InputError
from tests.chain import write_jsonl
from tests.data.commonsense import CASES

QUESTION = r"Please choose the correct answer to the question: (?P<question>.*?)\n\n"


def options(text, name):
    """The options of `Name1: … Name2: …`, with what stands between them taken off."""
    parts = re.split(rf"\s*{name}\d: ", text)
    assert parts[0] == ""
    return parts[1:]


def boolq(row):
    pattern = r".* true or false, question: (.*)\?\n\nAnswer format: true/false"
    found = re.fullmatch(pattern, row["instruction"], re.S)
    return {"question": found[1], "answer": row["answer"] == "true"}


def piqa(row):
    pattern = r".* solution to the question: (.*?)\n\nSolution1: (.*)\n\nSolution2: (.*)\n\nAnswer format"
    goal, first, second = re.match(pattern, row["instruction"], re.S).groups()
    return {"goal": goal, "sol1": first, "sol2": second, "label": int(row["answer"][-1]) - 1}


def answers(row):
    found = re.fullmatch(QUESTION + r"(?P<options>.*)\n\nAnswer format: \S+", row["instruction"], re.S)
    return found["question"], options(found["options"], "Answer"), int(row["answer"][-1])


def siqa(row):
    question, texts, right = answers(row)
    context, _, asked = question.rpartition(" ")
    columns = {f"answer{letter}": text for letter, text in zip("ABC", texts, strict=True)}
    return {"context": context, "question": asked, "label": str(right), **columns}


def lettered(column):
    def columns(row):
        question, texts, right = answers(row)
        letters = "ABCDE"[: len(texts)]
        choices = {"text": texts, "label": list(letters)}
        return {column: question, "choices": choices, "answerKey": letters[right - 1]}

    return columns


def winogrande(row):
    pattern = r".* to complete the given sentence: (.*?)\n\n(.*) Answer format: option1/option2"
    found = re.fullmatch(pattern, row["instruction"], re.S)
    first, second = options(found[2], "Option")
    return {"sentence": found[1], "option1": first, "option2": second, "answer": row["answer"][-1]}


FILES = {
    "boolq": (BoolQ, boolq),
    "piqa": (PIQA, piqa),
    "social_i_qa": (SIQA, siqa),
    "winogrande": (WinoGrande, winogrande),
    "ARC-Easy": (ARC, lettered("question")),
    "ARC-Challenge": (ARC, lettered("question")),
    "openbookqa": (OpenBookQA, lettered("question_stem")),
}


@pytest.mark.parametrize("name", FILES)
def test_real_rows_come_out_word_for_word(name, shared):
    dataset, columns = FILES[name]
    data = dataset("unused.jsonl", template="{instruction}")
    paths = sorted((shared / "data" / "commonsense").glob(f"{name}.*.json"))
    assert paths
    for path in paths:
        for number, row in enumerate(json.loads(path.read_text()), start=1):
            question = data.question(SourceRow(path.name, number, columns(row)), "x")
            assert question.prompt == row["instruction"]
            assert question.as_example().completion == row["output"]


@pytest.mark.parametrize(("name", "count"), [("boolq.test", 3270), ("piqa.test", 1838), ("ARC-Easy.train", 2251)])
def test_real_files_read_whole(name, count, shared):
    path = shared / "data" / "commonsense" / f"{name}.json"
    questions = CommonsenseJSON(path).load_questions()
    rows = json.loads(path.read_text())
    assert len(questions) == count
    for question, row in zip(questions, rows, strict=True):
        assert question.prompt == row["instruction"] + "\n\n"
        assert question.choices[question.best] == row["output"]
        assert len(set(question.choices)) == len(question.choices) >= 2


@pytest.mark.parametrize("dataset", [ARC, BoolQ, HellaSwag, OpenBookQA, PIQA, SIQA, WinoGrande])
def test_the_default_goes_to_the_hub(dataset, monkeypatch):
    asked = []

    def read_rows(source, *, subset, split, revision):
        asked.append((source, subset, split, revision))
        return []

    monkeypatch.setattr(source_rows, "read_rows", read_rows)
    data = dataset()
    data.load_questions()
    data.load_given_question_splits()
    splits = {"train", "validation", "test"} if dataset in (ARC, OpenBookQA) else {"train", "validation"}
    assert {split for _, _, split, _ in asked} == splits
    assert len({(source, subset, revision) for source, subset, _, revision in asked}) == 1


@pytest.mark.parametrize("name", ["BoolQ", "ARC"])
def test_a_folder_brings_its_splits(name, tmp_path, word_tokenizer):
    rows = CASES[name].rows
    for split, count in {"train": 8, "validation": 3, "test": 2}.items():
        table = [{**rows[i % 2], "id": f"{split}-{i}"} for i in range(count)]
        Dataset.from_list(table).to_parquet(tmp_path / f"{split}.parquet")
    dataset = {"BoolQ": BoolQ, "ARC": ARC}[name]
    data = dataset(tmp_path, subset=None, calibration=2, validation=1)
    data.tokenizer = word_tokenizer
    if name == "BoolQ":
        assert data.split_ids("test") == ["validation-0", "validation-1", "validation-2"]
        assert len(data.split_ids("train")) == 5
    else:
        assert data.split_ids("test") == ["test-0", "test-1"]
        assert data.split_ids("validation") == ["validation-0", "validation-1", "validation-2"]
        assert "validation" not in dataset(tmp_path, subset=None, validation=None).load_given_question_splits()


def test_a_table_serves_as_well(tmp_path):
    (tmp_path / "b.csv").write_text("question,answer\nis snow cold,True\nis ice warm,false\n")
    assert [question.best for question in BoolQ(tmp_path / "b.csv").load_questions()] == [0, 1]


def test_the_prompt_can_have_another_form(tmp_path):
    path = write_jsonl(tmp_path / "b.jsonl", CASES["BoolQ"].rows)
    question = BoolQ(path, template="### Instruction:\n{instruction}\n\n### Response:\n").load_questions()[0]
    assert question.prompt == f"### Instruction:\n{CASES['BoolQ'].prompt}\n\n### Response:\n"
    with pytest.raises(InputError, match=r"data\.template: expected the place \{instruction\}"):
        BoolQ(path, template="### Response:")


def test_an_unknown_label_is_named_with_the_known_ones(tmp_path):
    path = write_jsonl(tmp_path / "p.jsonl", [{**CASES["PIQA"].rows[0], "label": -1}])
    with pytest.raises(InputError, match=r"p\.jsonl, line 1: expected one of 0, 1 in 'label', got -1"):
        PIQA(path).load_questions()


def test_the_training_file_cannot_be_the_test_file(tmp_path, word_tokenizer):
    path = write_jsonl(tmp_path / "p.jsonl", CASES["PIQA"].rows * 4)
    data = PIQA(path, test_path=path, validation=None)
    data.tokenizer = word_tokenizer
    with pytest.raises(InputError, match="got 7 in both train and test"):
        data.setup()
