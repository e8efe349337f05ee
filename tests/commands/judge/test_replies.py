"""The file of replies: whole lines, whatever happens, and nothing asked twice."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from svd_lightning.commands.judge import Replies
from svd_lightning.errors import InputError


def test_replies_come_back_and_the_order_of_the_fields_is_no_difference(tmp_path):
    kept = Replies(tmp_path / "new" / "r.jsonl")
    assert kept.get({"a": 1}) is None
    assert not kept.path.exists()
    kept.add({"a": 1, "b": "ü\u2028"}, "ja\u2028\nnein ☃")
    for found in (kept, Replies(kept.path)):
        assert found.get({"b": "ü\u2028", "a": 1}) == "ja\u2028\nnein ☃"
        assert found.get({"a": 1}) is None
    assert kept.path.read_bytes().count(b"\n") == 1


def test_from_several_threads_every_line_is_whole(tmp_path):
    kept = Replies(tmp_path / "r.jsonl")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: kept.add({"n": n}, f"{n}" * 500), range(100)))
    assert [len(json.loads(line)) for line in kept.path.read_text().splitlines()] == [2] * 100
    again = Replies(kept.path)
    assert all(again.get({"n": n}) == f"{n}" * 500 for n in range(100))


@pytest.mark.parametrize("cut", [1, 10, 50])
def test_a_line_cut_short_is_left_out_and_the_next_starts_a_new_line(tmp_path, cut):
    kept = Replies(tmp_path / "r.jsonl")
    kept.add({"n": 1}, "yes")
    kept.add({"n": 2}, "no ☃")
    kept.path.write_bytes(kept.path.read_bytes()[:-cut])
    again = Replies(kept.path)
    assert again.get({"n": 1}) == "yes"
    assert again.get({"n": 2}) == ("no ☃" if cut == 1 else None)
    again.add({"n": 3}, "yes")
    last = Replies(kept.path)
    assert (last.get({"n": 1}), last.get({"n": 3})) == ("yes", "yes")


@pytest.mark.parametrize("line", ['{"id": "1", "prompt": "p"}', "[1]", '{"key": "k", "reply": 1}', "3"])
def test_another_file_is_refused_and_left_as_it_is(tmp_path, line):
    path = tmp_path / "r.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(InputError, match=r"r\.jsonl, line 1: expected a judge's reply, got"):
        Replies(path)
    assert path.read_text() == line + "\n"
