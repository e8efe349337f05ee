"""The verb sweep: what it reads of its command line, and a sweep of real runs with its table."""

import csv
import json

import pytest

from svd_lightning.cli import main
from svd_lightning.commands.sweep import sweep
from svd_lightning.commands.sweep.cells import evaluations, warm_starts
from svd_lightning.commands.sweep.command import as_overrides
from svd_lightning.commands.sweep.command import main as sweep_main
from svd_lightning.commands.sweep.runner import finish, run_all
from svd_lightning.commands.sweep.stages import Stage, stages
from svd_lightning.commands.sweep.sweep_file import load_sweep
from svd_lightning.errors import InputError
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


def test_a_finished_run_and_its_test_are_tabulated(file, tmp_path, capfd):
    overrides = [("calibration.alphas", "[]")]

    plan = load_sweep(tmp_path / "sweep.yaml")
    [start], [asked] = warm_starts(plan, overrides=overrides), evaluations(plan, only={"alpha": ["0.1"]})
    for stage in stages(start, [asked], plan.verbs, output=tmp_path / "out"):
        stage.partial.mkdir(parents=True)
        main(stage.arguments)  # in this process, for the sweep to find: another one would import everything again
        finish(stage)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    result = sweep(file, only=["alpha=0.1"], output=str(tmp_path / "out"), overrides=overrides)
    assert (result.folder, result.failures) == (tmp_path / "out", [])
    found = {line["distribution"]: float(line["value"]) for line in lines(result.folder)}
    record = json.loads((result.folder / "2" / "0.1" / "test" / "test_metrics.json").read_text())
    assert found["tuned"] == pytest.approx(record["metrics"]["NLL"]["tuned"]["value"], abs=1e-4)
    assert {"base", "steered", "control"} < set(found)
    assert found["base"] != found["tuned"]
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert "out/table.md" in capfd.readouterr().out.replace("\n", "")


def test_each_stage_is_a_process_of_this_package(tmp_path):
    with pytest.raises(InputError, match="there is no verb 'tset'; did you mean test"):
        run_all([[Stage("tset", tmp_path / "x", [])]], jobs=1, on_end=print)


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


@pytest.fixture
def dry(tmp_path):
    """A sweep that is planned, not run."""
    path = tmp_path / "small.yaml"
    path.write_text("{axes: {alpha: {0.1: {}, 0.2: {model.steering.alpha: 0.2}}}, fit: {data.limit: 4}}")
    return str(path)


def test_a_dry_run_prints_the_commands_and_writes_nothing(dry, tmp_path, capsys):
    output = tmp_path / "out"
    with pytest.raises(SystemExit) as caught:
        main(
            [
                "sweep",
                dry,
                "--dry-run",
                "--output",
                str(output),
                "--trainer.max_steps",
                "2",
                "--only",
                "alpha=0.2",
            ]
        )
    assert caught.value.code is None
    fit, test = capsys.readouterr().out.splitlines()
    assert fit.startswith("svd-lightning fit --data.limit 4 --model.steering.alpha 0.2 --trainer.max_steps 2 ")
    assert test.startswith(f"svd-lightning test --config {output}/0.2/fit/config.yaml --ckpt_path ")
    assert not output.exists()


def test_the_runs_go_below_runs_by_themselves(dry, capsys):
    assert sweep_main([dry, "--dry-run"]) is None
    assert "--trainer.logger.save_dir runs/small/0.1 " in capsys.readouterr().out


@pytest.mark.parametrize("words", [["3"], ["--data.limit", "3", "4"]])
def test_words_that_are_no_options_are_refused(words):
    with pytest.raises(InputError, match="expected --option value after the files, got"):
        as_overrides(words)


def test_an_option_needs_a_value():
    with pytest.raises(InputError, match=r"expected a value after --data\.limit, got nothing"):
        as_overrides(["--data.limit"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--jobs", "0"], "jobs: expected at least 1, got 0"),
        (["--only", "alpha"], "only: expected AXIS=LABEL,… such as peft=lora,ia3, got 'alpha'"),
        (["--only", "alpha=3"], "only: expected alpha of 0.1, 0.2, got alpha=3"),
    ],
)
def test_bad_options_are_one_line(dry, options, message):
    with pytest.raises(SystemExit, match=message):
        main(["sweep", dry, *options])


def test_a_missing_file_is_one_line():
    with pytest.raises(SystemExit, match=r"error: nowhere\.yaml: expected a readable YAML file"):
        main(["sweep", "nowhere.yaml"])
