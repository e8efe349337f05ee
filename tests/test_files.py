"""Files appear whole or not at all."""

import json
import math
import os
import stat

import pytest

from svd_lightning.files import write_json, write_text


def test_text_replaces_text(tmp_path):
    path = tmp_path / "new" / "file.txt"
    write_text(path, "one")
    write_text(path, "två\n")
    assert path.read_text(encoding="utf-8") == "två\n"
    assert os.listdir(path.parent) == ["file.txt"]


def test_the_user_s_umask_decides_who_may_read(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"good": 1})
    for bad in ({"bad": math.nan}, {"bad": object()}):
        with pytest.raises((ValueError, TypeError)):
            write_json(path, bad)
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half \ud800")
    assert json.loads(path.read_text()) == {"good": 1}
    assert os.listdir(tmp_path) == ["file.json"]


def test_infinities_are_strings_that_float_reads_back(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"penalty": -math.inf, "nested": [{"top": math.inf}, (1.5, None, True)]})

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    found = json.loads(path.read_text(), parse_constant=refuse)
    assert found == {"penalty": "-inf", "nested": [{"top": "inf"}, [1.5, None, True]]}
    assert float(found["penalty"]) == -math.inf
