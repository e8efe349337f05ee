"""Your own questions with choices, in every kind of file."""

import json

import pytest
from datasets import Dataset

from svd_lightning.data import ChoiceQuestion, JSONLChoices, Message
from svd_lightning.errors import InputError
from tests.chain import write_jsonl

ROW = {"id": "q", "prompt": "2 + 2 =", "choices": [" 5", " 4", " IV"], "correct": [1, 2], "best": 2}
QUESTION = ChoiceQuestion("q", "2 + 2 =", (" 5", " 4", " IV"), correct=(1, 2), best=2)


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


def test_columns_can_have_other_names(tmp_path):
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
