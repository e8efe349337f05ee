"""Two processes find what one finds, with uneven shares and a share of nothing; the files and tables of a test."""

import json

import pytest
import yaml

from svd_lightning.cli import main
from svd_lightning.data import JSONLChoices
from tests.chain import diary_model, plain_calibration, quiet_trainer, write_config, write_jsonl
from tests.processes import run_module
from tests.scoring.questions import diary_rows

QUESTIONS = {"odd": 11, "one": 1}


def write_choices(path, folder, count):
    """A configuration whose test split is so many questions."""
    train = write_jsonl(folder / "train.jsonl", diary_rows(6, seed=1))
    test = write_jsonl(path.with_suffix(".jsonl"), diary_rows(count))
    content = yaml.safe_load(write_config(path, folder, folder).read_text())
    content["data"] = {
        "class_path": "svd_lightning.data.JSONLChoices",
        "init_args": {
            "path": str(train),
            "test_path": str(test),
            "max_length": 64,
            "calibration": 2,
            "validation": 1,
        },
    }
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def two(checkpoint, tmp_path_factory):
    """The folder in which two processes have left their tests."""
    folder = tmp_path_factory.mktemp("two")
    for name, count in QUESTIONS.items():
        write_choices(folder / f"{name}.yaml", folder, count)
    run_module("tests.scoring.two_ranks", str(folder), checkpoint, processes=2)
    return folder


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_question_counts_once(name, two, checkpoint, tmp_path):
    found = json.loads((two / name / "version_0/test_metrics.json").read_text())
    data = JSONLChoices(two / "train.jsonl", test_path=two / f"{name}.jsonl", max_length=64, calibration=2)
    module = diary_model()
    quiet_trainer(tmp_path, plain_calibration()).test(module, datamodule=data, ckpt_path=checkpoint, verbose=False)
    alone = module.test_results.metrics
    assert found["questions"] == alone["questions"] == QUESTIONS[name]
    assert [part["questions"] for part in found["tasks"].values()] == ([6, 5] if name == "odd" else [1])
    assert found["distributions"] == alone["distributions"]
    assert set(found["metrics"]["MC1"]) == {"base", "tuned", "control", "paper", "joint", "chosen", "steered"}
    for part, expected in zip((found, *found["tasks"].values()), (alone, *alone["tasks"].values()), strict=True):
        for metric, entries in expected["metrics"].items():
            for distribution, entry in entries.items():
                assert part["metrics"][metric][distribution] == pytest.approx(entry, abs=1e-4), metric


def test_the_test_verb_shows_and_logs_them(checkpoint, tmp_path, capsys):
    path = write_choices(tmp_path / "odd.yaml", tmp_path, 11)
    main(["test", "--config", str(path), "--ckpt_path", checkpoint])
    printed = capsys.readouterr().out
    assert all(f"│ {metric} " in printed for metric in ("choice NLL", "MC1", "MC2", "MC3", "accuracy"))
    shown = (tmp_path / "run/version_0/run.log").read_text()
    found = json.loads((tmp_path / "run/version_0/test_metrics.json").read_text())
    for title, part in (("Choices", found), ("Choices of even", found["tasks"]["even"])):
        assert f"{title} " in shown
        assert f"{part['questions']} questions." in shown
        assert f"{part['metrics']['MC2']['joint']['value']:.1%}" in shown
    assert "test/MC1_tuned" in (tmp_path / "run/version_0/metrics.csv").read_text()
    assert (tmp_path / "run/version_0/test.json").exists()
