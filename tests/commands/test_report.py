"""`svd-lightning report`: where the page goes, and bad input."""

import json

import pytest

from svd_lightning.cli import main
from svd_lightning.commands.report import report
from svd_lightning.report import load_run, page, save_calibration
from tests.report.cases import CASES
from tests.report.test_page import Page


def test_the_command_writes_the_page_and_prints_where(tmp_path, capsys):
    one = CASES["one-rule"]()
    save_calibration(tmp_path, one.record, one.table)
    main(["report", str(tmp_path)])
    path = tmp_path / "report.html"
    assert capsys.readouterr().out.strip() == str(path)
    first = path.read_text()
    assert first == page(load_run(tmp_path)), "the same run gives the same page"
    main(["report", str(tmp_path), "--output", str(tmp_path / "else" / "page.html")])
    assert (tmp_path / "else" / "page.html").read_text() == first
    path.write_text("old")
    assert report(str(tmp_path)) == path
    assert path.read_text() == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "expected a run folder, got 'nowhere', and no such folder exists"),
        ([], "run"),
        (["x", "--outptu", "y"], "outptu"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["report", *arguments])
    told = caught.value.code if isinstance(caught.value.code, str) else capsys.readouterr().err
    assert message in told
    assert told.startswith("error: ")
    assert "\n" not in told.strip()


def test_a_real_run_has_a_report(fitted, tmp_path):
    path = report(str(fitted), output=str(tmp_path / "report.html"))
    record = json.loads((fitted / "calibration.json").read_text())
    found = Page(path.read_text())
    assert record["message"][1:] in found.text
    assert found.tags.count("figure") == 4 + bool(record["sweep"])
    assert "left out" not in found.text


def test_help_names_the_command(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "report            Write the calibration of a run as one HTML file" in capsys.readouterr().out
