import json

import pytest
from datasets import Dataset

from svd_lightning.data.source_rows import is_file_path, read_rows
from svd_lightning.errors import InputError

ROWS = [{"prompt": "Q, é", "completion": "None"}, {"prompt": "multi\nline", "completion": "5"}]


def values(source, **options):
    return [dict(row.values) for row in read_rows(source, **options)]


def written(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def csv_text(separator):
    return f'prompt{separator}completion\n"Q, é"{separator}None\n"multi\nline"{separator}5\n'


@pytest.fixture
def sources(tmp_path):
    Dataset.from_list(ROWS).to_parquet(tmp_path / "data.parquet")
    return {
        "jsonl": written(tmp_path / "data.jsonl", "\n".join(json.dumps(row) for row in ROWS) + "\n\n"),
        "json": written(tmp_path / "data.json", json.dumps(ROWS)),
        "csv": written(tmp_path / "data.csv", csv_text(",")),
        "tsv": written(tmp_path / "data.tsv", csv_text("\t")),
        "parquet": tmp_path / "data.parquet",
    }


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_every_format_gives_the_same_text(sources, kind):
    assert values(sources[kind]) == ROWS
    assert values(str(sources[kind])) == ROWS


def test_a_dataset_folder_is_read_by_split(tmp_path):
    for split, rows in {"train": ROWS, "test": ROWS[:1]}.items():
        Dataset.from_list(rows).to_parquet(tmp_path / f"{split}.parquet")
    assert values(tmp_path) == ROWS
    assert values(tmp_path, split="test") == ROWS[:1]
    with pytest.raises(InputError, match=r"cannot load .*nowhere"):
        read_rows(tmp_path, split="nowhere")


def test_a_hub_name_goes_to_load_dataset(monkeypatch):
    asked = []

    def load_dataset(name, subset, *, split, revision, data_files):
        asked.append((name, subset, split, revision, data_files))
        return Dataset.from_list(ROWS)

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    rows = read_rows("owner/name.v2", subset="generation", split="validation", revision="v1")
    assert asked == [("owner/name.v2", "generation", "validation", "v1", None)]
    assert rows[1].where == "owner/name.v2 (validation), row 2"


def test_a_hub_name_that_cannot_be_had_is_one_line(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"cannot load no-such-owner/no-such-data \(train\)") as caught:
        read_rows("no-such-owner/no-such-data")
    assert "\n" not in str(caught.value)


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    written(tmp_path / "mine.jsonl", json.dumps(ROWS[0]))
    assert values("~/mine.jsonl") == ROWS[:1]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_tells_the_encoding_and_is_no_part_of_the_text(tmp_path, encoding):
    path = tmp_path / "bom.csv"
    path.write_text("prompt,completion\na,é\n", encoding=encoding)
    assert values(path) == [{"prompt": "a", "completion": "é"}]


@pytest.mark.parametrize("name", ["gone.jsonl", "./gone", "~/gone", "/tmp/gone/gone", "a/b/gone"])
def test_a_missing_file_is_not_taken_for_a_hub_name(name):
    with pytest.raises(InputError, match="no such file"):
        read_rows(name)


@pytest.mark.parametrize("name", ["e.jsonl", "e.json", "e.csv"])
@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_file_is_refused(tmp_path, name, text):
    with pytest.raises(InputError, match=rf"{name}: expected at least one example"):
        read_rows(written(tmp_path / name, text))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.jsonl", '{"prompt": "a"}\n\n{"prompt": \n', r"x\.jsonl, line 3: expected JSON"),
        ("x.jsonl", '{"prompt": "a"}\n[1]\n', r"x\.jsonl, line 2: expected a JSON object.*got list"),
        ("x.json", "[1", r"x\.json: expected JSON"),
        ("x.json", '{"a": 1}', r"x\.json: expected a list of objects, got dict"),
        ("x.json", "[{}, 5]", r"x\.json, row 2: expected a JSON object"),
        ("x.csv", "prompt,completion\na,b\nc\n", r"x\.csv, line 3: expected 2 fields"),
        ("x.csv", "prompt,completion\na,b,c\n", r"x\.csv, line 2: expected 2 fields"),
        ("x.csv", "prompt\n" + "y" * 140_000, r"x\.csv, after line 1: not readable as CSV"),
        (
            "x.csv",
            'prompt,completion\na,b\nc,"d\ne,f\n',
            r"x\.csv, after line .*not readable as CSV: .*close each quot",
        ),
        (
            "x.csv",
            "prompt,prompt\na,b\n",
            r"x\.csv, line 1: expected columns of different names, got 'prompt' twice",
        ),
        ("x.jsonl", '{"a": 1}\n' + "[" * 100_000, r"x\.jsonl, line 2: expected JSON"),
        ("x.jsonl", '{"a": ' + "1" * 5000 + "}", r"x\.jsonl, line 1: expected JSON"),
        (
            "x.jsonl",
            '{}\n{"a": [{"b": "c \\ud83d"}]}',
            r"x\.jsonl, line 2: expected text, got half of a character",
        ),
        ("x.json", '[{}, {"\\udc00": "a"}]', r"x\.json, row 2: expected text, got half of a character"),
        ("x.txt", "words", r"x\.txt: expected a file of type \.jsonl"),
        ("x.parquet", "words", r"cannot load .*x\.parquet"),
    ],
)
def test_a_malformed_file_is_refused_with_its_line(tmp_path, name, text, message):
    with pytest.raises(InputError, match=message):
        read_rows(written(tmp_path / name, text))


def test_a_file_in_another_encoding_is_refused_with_its_line(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes('{"prompt": "a"}\n{"prompt": "é"}'.encode("latin-1"))
    with pytest.raises(InputError, match=r"x\.jsonl, line 2: expected text in UTF-8, got the byte 0xe9") as caught:
        read_rows(path)
    assert "\n" not in str(caught.value)


def test_a_line_separator_inside_a_string_does_not_end_the_line(tmp_path):
    path = written(tmp_path / "x.jsonl", json.dumps({"prompt": "a\u2028b"}, ensure_ascii=False))
    assert values(path) == [{"prompt": "a\u2028b"}]
    path = written(tmp_path / "x.csv", "prompt\na\u2028b\n")
    assert values(path) == [{"prompt": "a\u2028b"}]


def test_files_and_datasets_are_told_apart(tmp_path):
    assert is_file_path("x.jsonl")
    assert is_file_path("../no-such-file-here")
    assert not is_file_path("owner/name")
    assert not is_file_path(tmp_path)
