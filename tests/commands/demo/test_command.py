"""The demo runs the whole chain, and its table says what the method says."""

import io
import json
import re
from contextlib import redirect_stdout
from unittest import mock

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from svd_lightning.cli import main
from svd_lightning.commands.demo.command import HELD_OUT
from tests.chain import read_jsonl

SHORT = {"calibration": 120, "validation": 40, "test": 150}


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Folder and printed text of a shortened demo, beside an earlier run's folder."""
    output = tmp_path_factory.mktemp("demo") / "run"
    (output / "version_0").mkdir(parents=True)
    (output / "version_0" / "predictions.jsonl").write_text("earlier")
    with mock.patch.dict(HELD_OUT, SHORT), redirect_stdout(io.StringIO()) as text:
        main(["demo", "--output", str(output), "--examples", "192", "--learning_rate", "2e-3"])
    return output / "version_1", text.getvalue()


@pytest.fixture(scope="module")
def table(shown):
    """NLL and KL to the truth of every distribution in the printed table."""
    lines = shown[1].partition("Held-out diaries")[2].partition("└")[0].splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    return {name: (float(nll), float(kl)) for name, _, nll, kl, *_ in rows}


def test_training_and_steering_come_nearer_to_the_truth(table):
    steered, mean = table["steered, line search"], table["steered, the paper's mean"]
    assert steered < table["tuned"] < table["base"], "NLL"
    assert steered[1] < table["tuned"][1] < table["base"][1], "KL to the truth"
    assert steered[0] <= mean[0]
    assert {"sharpened (control)", "prior", "label bias", "calibrated head"} < set(table)


def test_what_it_points_at_is_there(shown):
    folder, text = shown
    for name in ("calibration.json", "predictions.jsonl"):
        assert re.search(f"{re.escape(str(folder / name))}", text)
    rows = read_jsonl(folder / "predictions.jsonl")
    assert len(rows) == 20
    assert {"completion", "base", "tuned"} <= set(rows[0])
    record = json.loads((folder / "calibration.json").read_text())
    assert record["examples"] == SHORT["calibration"]
    refused = [text for text in record["advice"] if "decoded freely it is surely worse" in text]
    assert {text.split()[0] for text in refused} == {
        "Prior",
        "LabelBias",
        "CalibratedHead",
    }  # all write in circles here
    assert record["verdict"] == "steer"
    assert not any("tuned model is used" in text for text in (record["message"], *refused))
    tags = EventAccumulator(str(folder)).Reload().Tags()
    assert "steer/strength" in tags["scalars"]
    assert "steer/objective" in tags["images"]
    assert "svd-lightning fit --model.adapter configs/adapter/lora.yaml" in text


def test_another_run_makes_another_folder(shown):
    folder, _ = shown
    assert sorted(path.name for path in folder.parent.iterdir()) == ["version_0", "version_1"]
    [earlier] = (folder.parent / "version_0").iterdir()
    assert earlier.read_text() == "earlier"
