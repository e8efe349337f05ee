"""From a base and data to a vector, to its strength, to steered completions: by the command line alone."""

import json

import pytest
import torch

from svd_lightning.cli import main
from svd_lightning.commands.demo import BASE_FOLDER
from svd_lightning.commands.experimental import learned_vector, sampled_contrast
from svd_lightning.errors import InputError
from svd_lightning.experimental import load_vector
from svd_lightning.models import Backbone
from tests.chain import diary_data, read_jsonl

BASE = ("--backbone.name_or_path", str(BASE_FOLDER))


@pytest.fixture
def data(diaries):
    return ("--data", "JSONLData", "--data.path", str(diaries / "train.jsonl"), "--data.max_length", "64")


def rule(path):
    return json.dumps(
        [{"class_path": "svd_lightning.experimental.ConstantVector", "init_args": {"path": str(path)}}]
    )


COMMANDS = {
    "sampled-contrast": ["--samples", "3", "--max_new_tokens", "8"],
    "learned-vector": ["--epochs", "2"],
    "learned-vector by reward": [
        *("--reward", "svd_lightning.metrics.rouge_l", "--data.limit", "8"),
        *("--samples", "3", "--max_new_tokens", "8"),
    ],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_vector_is_made(name, data, tmp_path, capsys):
    out = tmp_path / "vector.safetensors"
    main([name.split()[0], str(out), *data, *BASE, *COMMANDS[name]])
    assert str(out) in capsys.readouterr().out.replace("\n", "")
    vocabulary = Backbone(str(BASE_FOLDER)).load_tokenizer().get_vocab()
    values, about = load_vector(out, vocabulary)
    assert values.shape == (len(vocabulary),)
    assert values.abs().sum() > 0.0
    assert about["idea"] in ("sampled contrast", "learned vector")
    with pytest.raises(SystemExit, match="out: expected a new file"):
        main([name.split()[0], str(out), *data, *BASE])


def test_a_vector_steers_the_base(data, config, tmp_path):
    """The strength is calibrated along it, with an adapter that is not trained; then it decodes."""
    out = tmp_path / "vector.safetensors"
    main(["learned-vector", str(out), *data, *BASE, "--epochs", "4"])
    steering = ("--model.steering.alpha", "null", "--model.steering.rules", rule(out))
    logger = ("--config", str(config), "--trainer.logger.init_args.save_dir", str(tmp_path))
    quick = ("--calibration.others", "false", "--calibration.show_table", "false")
    main(["calibrate", *logger, *steering, *quick])
    record = json.loads((tmp_path / "run/version_0/calibration.json").read_text())
    assert record["rules"] == ["ConstantVector"]
    assert record["nll_base"] == pytest.approx(record["nll_tuned"])
    assert record["nll_steered"] < record["nll_tuned"] - 0.01
    assert record["strengths"][0] > 0.2
    main(["predict", *logger, *steering, "--model.steering.strengths", "[30.0]", "--predict.compare", "true"])
    rows = read_jsonl(tmp_path / "run/version_1/predictions.jsonl")
    assert all(row["tuned"] == row["base"] for row in rows)
    assert any(row["completion"] != row["base"] for row in rows)


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        (sampled_contrast, {"samples": 1}, "samples: expected at least 2, got 1"),
        (sampled_contrast, {"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        (learned_vector, {"epochs": 0}, "epochs: expected at least 1, got 0"),
        (learned_vector, {"samples": 1}, "samples: expected at least 2, got 1"),
    ],
)
def test_options_that_make_no_sense(command, options, message, diaries, tmp_path):
    with pytest.raises(InputError, match=message):
        command(str(tmp_path / "v"), data=diary_data(diaries), backbone=Backbone(str(BASE_FOLDER)), **options)


def test_answers_that_do_not_differ_make_no_vector(diaries, tmp_path):
    torch.manual_seed(0)
    options = {"max_new_tokens": 1, "samples": 2}
    data = diary_data(diaries, limit=1)
    with pytest.raises(InputError, match="samples: expected answers that differ"):
        sampled_contrast(str(tmp_path / "v"), data=data, backbone=Backbone(str(BASE_FOLDER)), **options)
    with pytest.raises(InputError, match="data: expected a dataset, got none"):
        sampled_contrast(str(tmp_path / "v"), backbone=Backbone(str(BASE_FOLDER)))
