"""What a calibration leaves behind is found again, or missed with a reason."""

import json
import math

import pytest
import torch

from svd_lightning.errors import InputError
from svd_lightning.report import load_run, save_calibration
from svd_lightning.report.folder import HISTORY, RECORD, TABLE, read_history
from tests.report.cases import CASES


@pytest.fixture(scope="module")
def one():
    return CASES["one-rule"]()


def test_all_of_it_comes_back(one, tmp_path):
    save_calibration(tmp_path, one.record, one.table)
    run = load_run(tmp_path)
    assert run.record.pop("versions")["torch"] == torch.__version__
    assert json.loads(json.dumps(run.record)) == json.loads(json.dumps(one.record))  # tuples are lists there
    assert run.record["penalty"] == -math.inf
    assert torch.equal(run.table.log_p, one.table.log_p)
    assert [type(rule).__name__ for rule in run.rules] == one.record["rules"]
    assert (run.test, run.config, run.notes) == (None, None, ())


def test_the_history_grows_and_a_resumed_run_replaces_what_it_does_again(one, tmp_path):
    for epoch, step in ((0, 10), (1, 20), (2, 30), (1, 20)):
        record = {**one.record, "epoch": epoch, "global_step": step, "nll_tuned": 1.0 / step}
        save_calibration(tmp_path, record, one.table)
    rows = load_run(tmp_path).history
    assert [(row["epoch"], row["global_step"], row["nll_tuned"]) for row in rows] == [(0, 10, 0.1), (1, 20, 0.05)]


def test_a_run_without_a_table_or_history_still_has_a_report(one, tmp_path):
    save_calibration(tmp_path, one.record, one.table)
    (tmp_path / TABLE).unlink()
    (tmp_path / HISTORY).unlink()
    run = load_run(tmp_path)
    assert run.table is None
    assert run.history[0]["nll_tuned"] == one.record["nll_tuned"]
    assert "calibrate again" in run.notes[0]


def test_a_table_of_another_step_is_left_out(one, tmp_path):
    save_calibration(tmp_path, one.record, one.table)
    record = json.loads((tmp_path / RECORD).read_text())
    (tmp_path / RECORD).write_text(json.dumps({**record, "global_step": 99}))
    run = load_run(tmp_path)
    assert run.table is None
    assert "another step" in run.notes[0]


def test_a_full_disk_costs_the_table_only(one, tmp_path, monkeypatch, caplog):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("svd_lightning.report.folder.save_table", fail)
    save_calibration(tmp_path, one.record, one.table)
    assert {path.name for path in tmp_path.iterdir()} == {HISTORY, RECORD}
    assert "No space left" in caplog.text


def test_a_rule_from_elsewhere_costs_the_curves_only(one, tmp_path):
    save_calibration(tmp_path, {**one.record, "rules": ["MyRule"]}, one.table)
    run = load_run(tmp_path)
    assert run.rules is None
    assert "not built in" in run.notes[0]


def test_a_folder_without_a_calibration_is_refused_with_the_likely_one(one, tmp_path):
    with pytest.raises(InputError, match=r"expected a run folder with calibration.json.*runs/demo/version_0"):
        load_run(tmp_path)
    save_calibration(tmp_path / "version_0", one.record, one.table)
    with pytest.raises(InputError, match=r"did you mean .*version_0\?"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (RECORD, "{", "expected JSON, got a damaged file"),
        (RECORD, "[]", "expected a JSON object, got list"),
        (RECORD, '{"strengths": [1.0]}', "got one without candidates, message, rules, used"),
        (HISTORY, '{"epoch": 0}\n', "in every line; delete the file"),
        (HISTORY, "{", "expected JSON, got a damaged file"),
        (TABLE, "", "damaged file"),
    ],
)
def test_damaged_files_are_named(name, text, message, one, tmp_path):
    save_calibration(tmp_path, one.record, one.table)
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=f"{name}: .*{message}"):
        load_run(tmp_path)


def test_test_results_come_from_the_run_or_the_folder_given(one, tmp_path):
    save_calibration(tmp_path, one.record, one.table)
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(InputError, match=r"test.json.*svd-lightning test"):
        load_run(tmp_path, test=tmp_path / "elsewhere")
    for folder in (tmp_path, tmp_path / "elsewhere"):
        (folder / "test.json").write_text(json.dumps({"tokens": len(str(folder))}))
    assert load_run(tmp_path).test == {"tokens": len(str(tmp_path))}
    assert load_run(tmp_path, test=tmp_path / "elsewhere").test == {"tokens": len(str(tmp_path / "elsewhere"))}


def test_no_history_is_an_empty_one(tmp_path):
    assert read_history(tmp_path / "none") == []
