"""Rows as OpenAI's fine-tuning format, ShareGPT, Alpaca and LLaMA-Factory write them."""

import json

import pytest
from datasets import Dataset

from svd_lightning.data import JSONLChoices, JSONLData, Message
from svd_lightning.errors import InputError
from tests.chain import write_jsonl

USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
CALLED = {"id": "1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
TOOL = {"type": "function", "function": {"name": "add"}}


def read(tmp_path, *rows, **options):
    return JSONLData(write_jsonl(tmp_path / "t.jsonl", rows), **options).load()


def said(messages):
    return [(message.role, message.content, message.trained) for message in messages]


def test_weights_tools_and_calls_of_openai_rows_are_kept(tmp_path):
    turns = [
        {"role": "system", "content": "s"},
        USER,
        {**ANSWER, "weight": 0},
        {**USER, "name": "Ann", "weight": 0},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "weight": 1},
        {"role": "tool", "tool_call_id": "1", "content": "3"},
        ANSWER,
    ]
    (example,) = read(tmp_path, {"messages": turns, "tools": [TOOL]})
    assert said(example.messages) == [
        ("system", "s", True),
        ("user", "a", True),
        ("assistant", "b", False),
        ("user", "a", False),
        ("assistant", "", True),
        ("tool", "3", True),
    ]
    assert [dict(one.fields) for one in example.messages[3:]] == [
        {"name": "Ann"},
        {"tool_calls": [CALLED]},
        {"tool_call_id": "1"},
    ]
    assert (example.completion, example.answer, example.tools) == ("b", None, (TOOL,))
    assert example.where == f"{tmp_path / 't.jsonl'}, line 1"
    (last,) = read(tmp_path, {"messages": turns}, last_turn_only=True)
    assert [one.trained for one in last.messages if one.role == "assistant"] == [False, False]


def test_a_call_can_be_the_answer_in_the_old_form_too(tmp_path):
    turns = [
        [USER, {"role": "assistant", name: call}]
        for name, call in (("tool_calls", [CALL]), ("function_call", CALL["function"]))
    ]
    new, old = read(tmp_path, *({"messages": one} for one in turns))
    assert new.answer == Message(role="assistant", content="", fields={"tool_calls": [CALLED]})
    assert old.answer.fields["tool_calls"][0]["function"] == CALLED["function"]
    assert json.loads(new.completion) == [CALLED]


def test_sharegpt_rows_are_conversations(tmp_path):
    turns = [
        {"from": "system", "value": "s"},
        {"from": "human", "value": "a"},
        {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
        {"from": "observation", "value": "3"},
        {"from": "gpt", "value": "b"},
    ]
    first, second = read(
        tmp_path,
        {"conversations": turns, "tools": json.dumps([TOOL])},
        {"conversations": turns[1:2] + turns[4:], "system": "t"},
    )
    assert [one.role for one in first.messages] == ["system", "user", "assistant", "tool"]
    assert first.messages[2].fields["tool_calls"][0]["function"] == CALLED["function"]
    assert (first.completion, first.tools) == ("b", (TOOL,))
    assert said(second.messages) == [("system", "t", True), ("user", "a", True)]
    assert (second.prompt, second.completion) == ("system: t\nuser: a", "b")


def test_alpaca_rows_get_stanfords_prompt(tmp_path):
    plain, given = read(
        tmp_path,
        {"instruction": "Add.", "input": "", "output": "3"},
        {"instruction": "Add.", "input": "1 2", "output": "3"},
    )
    assert plain.prompt == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nAdd.\n\n### Response:\n"
    )
    assert given.prompt == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request."
        "\n\n### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n"
    )
    assert (plain.completion, plain.messages) == ("3", None)


def test_what_comes_after_the_last_answer_to_learn_is_counted(tmp_path):
    rows = [[USER, ANSWER, USER], [USER, ANSWER, USER, {**ANSWER, "weight": 0}], [USER, ANSWER]]
    with pytest.warns(UserWarning, match=r"2 of 3 conversations go on .*not used \(first: .*t\.jsonl, line 1\)"):
        examples = read(tmp_path, *({"messages": row} for row in rows))
    assert [said(one.messages) for one in examples] == [[("user", "a", True)]] * 3


def test_prompts_alone_keep_all_turns_but_the_answer_at_the_end(tmp_path):
    rows = [[USER, ANSWER, USER], [USER, {**ANSWER, "weight": 0}], [ANSWER, USER]]
    prompts = write_jsonl(tmp_path / "p.jsonl", [*({"messages": row} for row in rows), {"instruction": "Add."}])
    data = JSONLData(write_jsonl(tmp_path / "t.jsonl", [{"messages": rows[1]}]), predict_path=prompts)
    found = data.load_given_splits()["predict"]
    assert [len(one.messages or ()) for one in found] == [3, 1, 2, 0]
    assert [one.completion for one in found] == ["", "b", "", ""]


def test_tables_and_parquet_hold_conversations_as_json_and_as_lists(tmp_path):
    turns = [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}]
    cell = json.dumps(turns).replace('"', '""')
    (tmp_path / "t.csv").write_text(f'prompt,completion,messages\n,,"{cell}"\nx,y,\n')
    chat, plain = JSONLData(tmp_path / "t.csv").load()
    assert (chat.answer.fields, plain.messages, plain.completion) == ({"tool_calls": [CALLED]}, None, "y")
    Dataset.from_list([{"messages": turns, "tools": [TOOL]}]).to_parquet(tmp_path / "t.parquet")
    (stored,) = JSONLData(tmp_path / "t.parquet").load()
    assert (stored.answer, stored.messages, stored.tools) == (chat.answer, chat.messages, (TOOL,))


def test_questions_with_choices_may_follow_a_conversation_with_tools(tmp_path):
    row = {"messages": [USER, ANSWER, USER], "tools": [TOOL], "choices": ["c", "d"], "correct": [1]}
    (question,) = JSONLChoices(write_jsonl(tmp_path / "q.jsonl", [row])).load_questions()
    assert question.tools == (TOOL,)
    assert question.prompt == "user: a\nassistant: b\nuser: a"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [USER, {**ANSWER, "weight": 0.5}]}, "a weight of 0 or 1"),
        ({"messages": [{**USER, "weight": 1}, ANSWER]}, "1 for the assistant's messages only"),
        ({"messages": [USER, {**ANSWER, "weight": 0}]}, r"no message of the assistant \(of weight 1\) follows"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": ["add"]}]}, "a call of a tool as .*, got 'add'"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": []}]}, "expected a completion, got an empty one"),
        ({"messages": [USER, {"role": "assistant", "content": [{"type": "text"}]}]}, "content: text"),
        ({"messages": [USER, ANSWER], "tools": "add"}, "expected in 'tools' a list of JSON schemas"),
        ({"conversations": [{"from": "narrator", "value": "a"}]}, "expected 'from' to be one of system, human"),
        ({"conversations": [{"from": ["human"], "value": "a"}]}, "expected 'from' to be one of system, human"),
        ({"conversations": [{"from": "human"}]}, "content: None"),
        ({"conversations": [{"from": "function_call", "value": "add"}]}, "a call of a tool as .*, got 'add'"),
        ({"instruction": "a", "output": "b", "history": [["c", "d"]]}, "got 'system' or 'history' too"),
        ({"instruction": "a"}, "expected the column 'output'"),
        ({"instruction": "a", "input": 3, "output": "b"}, "expected text in 'input', got 3"),
    ],
)
def test_a_bad_row_is_one_line_with_file_and_row(tmp_path, row, message):
    good = {"messages": [USER, ANSWER]}
    with pytest.raises(InputError, match=rf"t\.jsonl, line 2: .*{message}") as caught:
        read(tmp_path, good, row)
    assert "\n" not in str(caught.value)
