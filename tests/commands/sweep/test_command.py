"""A sweep of real runs: warm start, evaluation, another calibration, the table."""

import csv
import json

import pytest

from svd_lightning.commands.sweep import sweep
from tests.chain import write_config

SWEEP = """
fit: {config: run.yaml}
axes:
  rank:
    2: {model.adapter.r: 2}
evaluate:
  alpha:
    0.1: {}
    0.3: {model.steering.alpha: 0.3}
verbs: [test]
columns: {NLL: NLL}
"""


@pytest.fixture
def file(diaries, tmp_path):
    write_config(tmp_path / "run.yaml", diaries, tmp_path, trainer={"max_steps": 2})
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    return str(tmp_path / "sweep.yaml")


def lines(folder):
    with (folder / "table.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_and_its_test_once(file, tmp_path, capfd):
    def run():
        return sweep(
            file, only=["alpha=0.1"], output=str(tmp_path / "out"), overrides=[("calibration.alphas", "[]")]
        )

    result = run()
    assert (result.folder, result.failures) == (tmp_path / "out", [])
    found = {line["distribution"]: float(line["value"]) for line in lines(result.folder)}
    record = json.loads((result.folder / "2" / "0.1" / "test" / "test_metrics.json").read_text())
    assert found["tuned"] == pytest.approx(record["metrics"]["NLL"]["tuned"]["value"], abs=1e-4)
    assert {"base", "steered", "control"} < set(found)
    assert found["base"] != found["tuned"]
    written = (result.folder / "2" / "fit" / "log.txt").stat().st_mtime_ns
    assert run().failures == []
    assert (result.folder / "2" / "fit" / "log.txt").stat().st_mtime_ns == written
    assert "out/table.md" in capfd.readouterr().out.replace("\n", "")


@pytest.mark.slow
def test_another_mask_is_calibrated_without_another_warm_start(file, tmp_path):
    result = sweep(file, output=str(tmp_path / "out"), jobs=2, overrides=[("calibration.guard", "false")])
    assert result.failures == []
    calibrated = [
        json.loads((result.folder / "2" / place / "calibration.json").read_text())
        for place in ("fit", "0.3/calibrate")
    ]
    assert [each["alpha"] for each in calibrated] == [0.1, 0.3]
    assert calibrated[0]["nll_tuned"] == pytest.approx(calibrated[1]["nll_tuned"])
    tested = json.loads((result.folder / "2" / "0.3" / "test" / "test.json").read_text())
    assert (tested["alpha"], tested["strengths"]) == (0.3, calibrated[1]["strengths"])
    assert {line["alpha"] for line in lines(result.folder)} == {"0.1", "0.3"}
