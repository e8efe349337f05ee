import json

import pytest
from datasets import Dataset

from svd_lightning.data import ChoiceQuestion, Example, JSONLChoices, JSONLData, Message
from svd_lightning.errors import InputError
from tests.chain import write_jsonl

ROW = {"id": "q", "prompt": "2 + 2 =", "choices": [" 5", " 4", " IV"], "correct": [1, 2], "best": 2}
QUESTION = ChoiceQuestion("q", "2 + 2 =", (" 5", " 4", " IV"), correct=(1, 2), best=2)


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


def test_an_empty_id_in_a_table_is_none(tmp_path):
    (tmp_path / "t.csv").write_text("id,prompt,completion\n,a,b\n7,a,b\n,a,b\n")
    assert [example.id for example in JSONLData(tmp_path / "t.csv").load()] == ["t-2", "7", "t-4"]


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


# -- questions with choices


def test_every_format_gives_the_same_question(tmp_path):
    (tmp_path / "q.json").write_text(json.dumps([ROW]))
    cells = [json.dumps(value) if isinstance(value, list) else str(value) for value in ROW.values()]
    table = ["\t".join(ROW), "\t".join('"' + cell.replace('"', '""') + '"' for cell in cells)]
    (tmp_path / "q.tsv").write_text("\n".join(table))
    (tmp_path / "q.csv").write_text("\n".join(table).replace("\t", ","))
    Dataset.from_list([ROW]).to_parquet(tmp_path / "q.parquet")
    write_jsonl(tmp_path / "q.jsonl", [ROW])
    for kind in ("jsonl", "json", "csv", "tsv", "parquet"):
        assert JSONLChoices(tmp_path / f"q.{kind}").load_questions() == [QUESTION]


def test_the_best_choice_is_the_first_right_one_unless_given(tmp_path):
    row = {**ROW, "best": None, "correct": 2, "task": "sums"}
    (question,) = JSONLChoices(write_jsonl(tmp_path / "q.jsonl", [row])).load_questions()
    assert (question.correct, question.best, question.task) == ((2,), 2, "sums")
    (question,) = JSONLChoices(tmp_path / "q.jsonl", task_column=None).load_questions()
    assert question.task is None


def test_columns_of_choices_can_have_other_names(tmp_path):
    path = write_jsonl(tmp_path / "q.jsonl", [{"q": "a", "o": ["b"], "r": 0, "key": "k"}])
    data = JSONLChoices(path, prompt_column="q", choices_column="o", correct_column="r", id_column="key")
    assert data.load_questions() == [ChoiceQuestion("k", "a", ("b",), correct=(0,), best=0)]


def test_a_conversation_goes_through_the_chat_template(tmp_path, word_tokenizer):
    row = {"messages": [{"role": "user", "content": "a b"}], "choices": ["c", "d"], "correct": [1]}
    data = JSONLChoices(
        write_jsonl(tmp_path / "q.jsonl", [{**row, "id": i} for i in range(3)]),
        test=1,
        validation=None,
        calibration=None,
    )
    word_tokenizer.chat_template = (
        "{% for turn in messages %}{{ turn.role }} {{ turn.content }} {% endfor %}"
        "{% if add_generation_prompt %}assistant {% endif %}"
    )
    data.tokenizer = word_tokenizer
    (question,) = data.questions("test")
    assert question.messages == (Message(role="user", content="a b"),)
    batch = next(iter(data.predict_dataloader()))
    assert batch["prompt"] == ["user a b assistant "]
    assert batch["completion"] == ["d "]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choices": []}, "expected choices, got none"),
        ({"choices": "4"}, "expected a list of texts in 'choices', got 4"),
        ({"choices": "four"}, "expected JSON in 'choices', got 'four'"),
        ({"choices": [" 4", 5]}, "expected a list of texts in 'choices'"),
        ({"choices": [" 4", " "]}, "expected choices with text"),
        ({"correct": []}, "expected at least one right choice, got none"),
        ({"correct": [3]}, "expected right choices among 0 to 2"),
        ({"correct": [-1]}, "expected right choices among 0 to 2"),
        ({"correct": ["B"]}, "expected whole numbers from 0 in 'correct'"),
        ({"correct": [True]}, "expected whole numbers from 0 in 'correct'"),
        ({"best": 0}, "the best among the right ones"),
        ({"best": "last"}, "expected JSON in 'best'"),
        ({"best": [1, 2]}, "expected one index in 'best', got"),
        ({"prompt": None}, "expected text in 'prompt', got None"),
        ({"messages": [{"role": "user"}]}, "expected in 'messages' a list"),
        ({"task": 5}, "expected text in 'task', got 5"),
    ],
)
def test_a_bad_row_is_one_line_with_file_and_line(tmp_path, change, message):
    path = write_jsonl(tmp_path / "q.jsonl", [{**ROW, "id": "first"}, {**ROW, **change}])
    with pytest.raises(InputError, match=rf"q\.jsonl, line 2: .*{message}") as caught:
        JSONLChoices(path).load_questions()
    assert "\n" not in str(caught.value)


def test_a_missing_column_is_named_with_its_option(tmp_path):
    path = write_jsonl(tmp_path / "q.jsonl", [{"prompt": "a", "options": ["b"]}])
    with pytest.raises(InputError, match=r"expected the column 'choices', got .*'options'; .*`choices_column`"):
        JSONLChoices(path).load_questions()


def test_a_conversation_that_is_already_answered_is_refused(tmp_path):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    row = {"messages": turns, "choices": ["c"], "correct": [0]}
    with pytest.raises(InputError, match=r"line 1: expected messages before the answer, got the assistant's last"):
        JSONLChoices(write_jsonl(tmp_path / "q.jsonl", [row])).load_questions()
