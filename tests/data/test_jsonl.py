import json

import pytest
from datasets import Dataset

from svd_lightning.data import Example, JSONLData, Message
from svd_lightning.errors import InputError


@pytest.fixture
def jsonl(tmp_path):
    def write(name, *rows):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(map(json.dumps, rows)))
        return path

    return write


def numbered(count, *, start=0):
    return [{"prompt": f"a {i}", "completion": f" b {i}"} for i in range(start, start + count)]


def test_prompts_and_completions_are_called_after_file_and_line(jsonl):
    assert JSONLData(jsonl("train.jsonl", *numbered(2))).load() == [
        Example("train-1", "a 0", " b 0"),
        Example("train-2", "a 1", " b 1"),
    ]


def test_ids_of_the_data_are_kept(jsonl):
    rows = [{"id": 7, "prompt": "a", "completion": "b"}, {"key": "x", "prompt": "a", "completion": "b"}]
    path = jsonl("train.jsonl", *rows)
    assert [example.id for example in JSONLData(path).load()] == ["7", "train-2"]
    assert [example.id for example in JSONLData(path, id_column="key").load()] == ["train-1", "x"]


def test_columns_can_have_other_names(jsonl):
    path = jsonl("train.jsonl", {"question": "a", "answer": "b"})
    data = JSONLData(path, prompt_column="question", completion_column="answer")
    assert data.load() == [Example("train-1", "a", "b")]


def test_a_row_may_name_its_task(jsonl):
    rows = numbered(4)
    for row, task in zip(rows, ({"task": "x"}, {}, {"task": None}, {"task": ""}), strict=True):
        row |= task
    path = jsonl("train.jsonl", *rows)
    assert [example.task for example in JSONLData(path).load()] == ["x", None, None, None]
    assert [example.task for example in JSONLData(path, task_column=None).load()] == [None] * 4
    assert JSONLData(path, task_column="prompt").load()[2].task == "a 2"
    with pytest.raises(InputError, match="line 1: expected text in 'task', got 3"):
        JSONLData(jsonl("bad.jsonl", {**rows[0], "task": 3})).load()


def test_csv_and_parquet_and_folders_serve_as_well(tmp_path):
    (tmp_path / "t.csv").write_text("prompt,completion\na,NA\n")
    Dataset.from_list(numbered(2)).to_parquet(tmp_path / "t.parquet")
    folder = tmp_path / "folder"
    folder.mkdir()
    Dataset.from_list(numbered(3)).to_parquet(folder / "train.parquet")
    Dataset.from_list(numbered(2, start=9)).to_parquet(folder / "test.parquet")
    assert JSONLData(tmp_path / "t.csv").load() == [Example("t-2", "a", "NA")]
    assert [example.id for example in JSONLData(tmp_path / "t.parquet").load()] == ["t-1", "t-2"]
    data = JSONLData(folder, test_path=folder)
    assert [example.id for example in data.load()] == ["folder-train-1", "folder-train-2", "folder-train-3"]
    assert [example.prompt for example in data.load_given_splits()["test"]] == ["a 9", "a 10"]


def test_conversations_end_with_the_assistant(jsonl):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    (example,) = JSONLData(jsonl("chat.jsonl", {"messages": turns})).load()
    assert example == Example("chat-1", "a", "b", messages=(Message(role="user", content="a"),))


def test_conversations_come_out_of_parquet_too(tmp_path):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    Dataset.from_list([{"messages": turns}]).to_parquet(tmp_path / "chat.parquet")
    assert JSONLData(tmp_path / "chat.parquet").load()[0].completion == "b"


def test_each_split_can_have_its_file(jsonl, word_tokenizer):
    data = JSONLData(
        jsonl("train.jsonl", *numbered(4)),
        calibration_path=jsonl("calibration.jsonl", *numbered(3, start=10)),
        validation_path=jsonl("validation.jsonl", *numbered(2, start=20)),
        test_path=jsonl("test.jsonl", *numbered(1, start=30)),
        predict_path=jsonl("prompts.jsonl", {"prompt": "a"}, {"prompt": "b", "completion": None}),
    )
    data.tokenizer = word_tokenizer
    sizes = {name: len(data.split_ids(name)) for name in ("train", "calibration", "validation", "test", "predict")}
    assert sizes == {"train": 4, "calibration": 3, "validation": 2, "test": 1, "predict": 2}
    assert next(iter(data.predict_dataloader()))["completion"] == ["", ""]


def test_files_of_the_same_name_give_different_ids(jsonl, word_tokenizer):
    one, other = jsonl("one/data.jsonl", *numbered(4)), jsonl("other/data.jsonl", *numbered(4, start=9))
    data = JSONLData(one, calibration_path=other, test=None, validation=None)
    data.tokenizer = word_tokenizer
    assert data.split_ids("train")[0] == "one/data.jsonl-1"
    assert data.split_ids("calibration")[0] == "other/data.jsonl-1"


def test_the_training_file_cannot_be_the_calibration_file(jsonl, word_tokenizer):
    path = jsonl("train.jsonl", *numbered(9))
    data = JSONLData(path, calibration_path=path, test=None, validation=None)
    data.tokenizer = word_tokenizer
    with pytest.raises(InputError, match="got 9 in both train and calibration"):
        data.setup()


def test_calibration_ids_that_train_has_are_refused(jsonl, word_tokenizer):
    row = {"id": "x", "prompt": "a", "completion": "b"}
    one, other = jsonl("t.jsonl", row), jsonl("c.jsonl", {**row, "prompt": "c"})
    data = JSONLData(one, calibration_path=other, test=None, validation=None)
    data.tokenizer = word_tokenizer
    with pytest.raises(InputError, match=r"got 1 in both train and calibration.*first id 'x'"):
        data.setup()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"completion": "b"}, r"line 2: expected the column 'prompt', got 'completion'; .*`prompt_column`"),
        ({"prompt": "a"}, r"line 2: expected the column 'completion', got 'prompt'; .*`completion_column`"),
        ({"prompt": "a", "completion": 5}, r"line 2: expected text in 'completion', got 5"),
        ({"prompt": None, "completion": "b"}, r"line 2: expected text in 'prompt', got None"),
        ({"prompt": "a", "completion": ""}, r"line 2: expected a completion, got an empty one"),
        ({"messages": "hello"}, r"line 2: expected in 'messages' a list"),
        ({"messages": []}, r"line 2: expected in 'messages' a list"),
        ({"messages": [{"role": "user"}]}, r"line 2: expected in 'messages' a list"),
        ({"messages": [{"role": "user", "content": "a"}]}, r"line 2: expected a completion"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, r"line 2: expected a message before"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(jsonl, row, message):
    with pytest.raises(InputError, match=message):
        JSONLData(jsonl("t.jsonl", *numbered(1), row)).load()


def test_an_unknown_column_of_a_table_is_refused_with_those_that_exist(tmp_path):
    (tmp_path / "t.csv").write_text("question,answer\na,b\n")
    with pytest.raises(InputError, match=r"expected the column 'prompt', got 'question', 'answer'"):
        JSONLData(tmp_path / "t.csv").load()


def test_prompts_only_still_need_prompts(jsonl):
    data = JSONLData(jsonl("t.jsonl", *numbered(2)), predict_path=jsonl("p.jsonl", {"text": "a"}))
    with pytest.raises(InputError, match=r"p\.jsonl, line 1: expected the column 'prompt'"):
        data.load_given_splits()
