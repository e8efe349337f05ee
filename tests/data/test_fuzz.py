"""Any rows: each one is used or refused in one line, and nothing else is raised."""

import csv
import json
import warnings

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from svd_lightning.data import JSONLChoices, JSONLData, encode
from svd_lightning.errors import InputError
from tests.data.chats import byte_tokenizer

TOKENIZER = byte_tokenizer()
TEXTS = st.one_of(
    st.sampled_from(["", " ", "a", "</s>", "<|im_end|>", "user", "assistant", "\ufeff", "\r\n", "{}", "[1]"]),
    st.sampled_from(["\ud800", "a\udfff", "\U0010fffd", "\x00", "\u2028"]),
    st.text(max_size=8),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=4,
)
CALL = st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": TEXTS, "arguments": VALUES})})
TURNS = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool"]) | VALUES, "content": TEXTS | VALUES},
    optional={
        "weight": st.sampled_from([0, 1]) | VALUES,
        "tool_calls": st.lists(CALL | VALUES, max_size=2),
        "name": VALUES,
    },
)
SPEAKERS = st.sampled_from(["human", "gpt", "function_call"]) | VALUES
SHAREGPT = st.fixed_dictionaries({"from": SPEAKERS, "value": TEXTS | VALUES})
ROWS = (
    st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(
                ("prompt", "completion", "instruction", "input", "output", "Prompt", "id"), TEXTS | VALUES
            ),
            "messages": st.lists(TURNS, max_size=4) | VALUES,
            "conversations": st.lists(SHAREGPT | TURNS, max_size=4) | VALUES,
            "tools": st.lists(st.dictionaries(TEXTS, VALUES, max_size=2), max_size=2) | VALUES,
            "task": TEXTS | VALUES,
            "choices": st.lists(TEXTS, max_size=3) | VALUES,
            "correct": st.lists(st.integers(-1, 3), max_size=2) | VALUES,
            "best": VALUES,
            "system": TEXTS,
        },
    )
    | VALUES
)
"""Rows with known names, names near to them, missing ones, and values of any kind."""

FUZZ = settings(
    max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def used(path, kind):
    """How many rows of a file end as rows of token ids, or the line that refuses the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return len(encode(kind(path).load(), TOKENIZER, split="train", max_length=9999).rows)
    except InputError as error:
        return str(error)


def all_or_one_line(found, rows):
    return "\n" not in found if isinstance(found, str) else found == len(rows)


@FUZZ
@given(rows=st.lists(ROWS, min_size=1, max_size=3))
@pytest.mark.parametrize("kind", [JSONLData, JSONLChoices])
def test_every_row_of_jsonl_is_used_or_refused(folder, kind, rows):
    path = folder / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert all_or_one_line(used(path, kind), rows)


SAID = st.text(st.characters(codec="utf-8", exclude_characters="\U0010fffd"), min_size=1)


def conversation(said):
    roles = ("user", "assistant")
    return {"messages": [{"role": role, "content": text} for text in said for role in roles]}


GOOD = st.one_of(
    st.fixed_dictionaries({"prompt": SAID, "completion": SAID}),
    st.lists(SAID, min_size=1, max_size=3).map(conversation),
    st.fixed_dictionaries({"instruction": SAID, "input": SAID, "output": SAID}),
)


@FUZZ
@given(rows=st.lists(GOOD, min_size=1, max_size=4))
def test_every_good_row_is_used(folder, rows):
    """Text of any kind, but for the private character that marks control tokens."""
    path = folder / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert used(path, JSONLData) == len(rows)


@FUZZ
@given(rows=st.lists(st.lists(SAID, min_size=2, max_size=3), min_size=1, max_size=4))
@example(rows=[["a", '"b'], ["c", "d"]])
def test_every_row_of_a_table_is_used_or_refused(folder, rows):
    path = folder / "t.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["prompt", "completion"], *rows])
    assert all_or_one_line(used(path, JSONLData), rows)


@FUZZ
@given(content=st.binary(max_size=60) | st.text(alphabet='ab",\n\r\t{}[]:', max_size=60).map(str.encode))
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv"])
def test_any_bytes_are_read_or_refused(folder, kind, content):
    path = folder / f"t.{kind}"
    path.write_bytes(content)
    found = used(path, JSONLData)
    assert isinstance(found, int) or "\n" not in found
