"""`svd-lightning sweep` as typed."""

import pytest

from svd_lightning.cli import main
from svd_lightning.commands.sweep.arguments import as_overrides
from svd_lightning.commands.sweep.arguments import main as sweep_main
from svd_lightning.errors import InputError

SWEEP = "{axes: {alpha: {0.1: {}, 0.2: {model.steering.alpha: 0.2}}}, fit: {data.limit: 4}}"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SWEEP)
    return str(path)


def test_a_dry_run_prints_the_commands_and_writes_nothing(file, tmp_path, capsys):
    output = tmp_path / "out"
    with pytest.raises(SystemExit) as caught:
        main(
            [
                "sweep",
                file,
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


def test_the_runs_go_below_runs_by_themselves(file, capsys):
    assert sweep_main([file, "--dry-run"]) is None
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
def test_bad_options_are_one_line(file, options, message):
    with pytest.raises(SystemExit, match=message):
        main(["sweep", file, *options])


def test_a_missing_file_is_one_line():
    with pytest.raises(SystemExit, match=r"error: nowhere\.yaml: expected a readable YAML file"):
        main(["sweep", "nowhere.yaml"])
