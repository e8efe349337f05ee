"""Which data class reads what a user names."""

import json
from pathlib import Path

import pytest
import yaml

from svd_lightning.data.sources import NAMED, find_data
from svd_lightning.errors import InputError
from tests.chain import ROOT, write_jsonl

CONFIGS = {path.stem: path for path in (ROOT / "configs/data").glob("*.yaml")}


def in_full(path: Path):
    """A part of a configuration, with the files that it names in their places."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    arguments = {name: value for name, value in content.get("init_args", {}).items() if name != "batch_size"}
    if "parts" in arguments:
        arguments["parts"] = {task: in_full(path.parent / file) for task, file in arguments["parts"].items()}
    return {"class_path": content["class_path"], "init_args": arguments}


def test_the_named_tasks_are_those_of_the_configurations():
    assert set(NAMED) == set(CONFIGS) - {"commonsense_local"}
    for name, found in NAMED.items():
        assert found == in_full(CONFIGS[name]), name


CHOICES = {"prompt": "a", "choices": [" b", " c"], "correct": [0]}
ROWS = {
    "prompts": ({"prompt": "a", "completion": " b"}, "JSONLData"),
    "messages": ({"messages": [{"role": "user", "content": "a"}]}, "JSONLData"),
    "sharegpt": ({"conversations": [{"from": "human", "value": "a"}]}, "JSONLData"),
    "alpaca": ({"instruction": "a", "input": "", "output": "b"}, "JSONLData"),
    "choices": (CHOICES, "JSONLChoices"),
    "more-columns": ({**CHOICES, "completion": " b"}, "JSONLChoices"),
    "commonsense": (
        {"instruction": "a", "input": "", "output": "the correct answer is true", "answer": "true"},
        "CommonsenseJSON",
    ),
    "truthfulqa": (
        {"Question": "a", "Best Answer": "b", "Correct Answers": "b", "Incorrect Answers": "c", "Category": "d"},
        "TruthfulQA",
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_the_first_row_shows_the_class(name, tmp_path):
    row, expected = ROWS[name]
    path = write_jsonl(tmp_path / "rows.jsonl", [row])
    found = find_data(str(path))
    assert found == {"class_path": f"svd_lightning.data.{expected}", "init_args": {"path": str(path)}}


def test_other_formats_and_folders(tmp_path, monkeypatch):
    (tmp_path / "rows.csv").write_text("prompt,completion\na,b\n")
    (tmp_path / "rows.json").write_text(json.dumps([CHOICES]))
    monkeypatch.chdir(tmp_path)
    assert find_data("rows.csv")["init_args"] == {"path": str(tmp_path / "rows.csv")}
    assert find_data("rows.json")["class_path"].endswith("JSONLChoices")
    write_jsonl(tmp_path / "folder/train.jsonl", [{"prompt": "a", "completion": " b"}])
    assert find_data("folder")["init_args"] == {"path": str(tmp_path / "folder")}


def test_a_subset_of_a_folder(tmp_path):
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in ("one", "two"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    write_jsonl(tmp_path / "one.jsonl", [CHOICES])
    write_jsonl(tmp_path / "two.jsonl", [{"prompt": "a", "completion": " b"}])
    found = [find_data(str(tmp_path), subset=name)["class_path"] for name in ("one", "two")]
    assert found == ["svd_lightning.data.JSONLChoices", "svd_lightning.data.JSONLData"]


def test_columns_that_the_user_names(tmp_path):
    path = str(write_jsonl(tmp_path / "rows.jsonl", [{"question": "a", "reply": " b"}]))
    with pytest.raises(InputError, match=r"line 1: expected the columns prompt and completion, .* got 'question'"):
        find_data(path)
    assert find_data(path, named_columns=True)["class_path"].endswith("JSONLData")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.jsonl", "no such file"),
        ("truthfullqa", "did you mean truthfulqa?"),
        ("arc-easy", "did you mean arc_easy?"),
    ],
)
def test_what_is_not_there(source, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        find_data(source)
