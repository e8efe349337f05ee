"""Which checkpoint test, predict, validate and calibrate take, and which ones they refuse."""

import json

import pytest
import torch
import yaml

from svd_lightning.cli import main
from svd_lightning.data import ARC, BoolQ, JSONLData, Mixture
from svd_lightning.errors import InputError
from svd_lightning.runs import open_run
from tests.chain import diary_data, diary_model, quiet_trainer
from tests.test_bad_input import refusal

MASK = ["--model.steering.alpha", "0.3"]


@pytest.fixture(scope="module")
def root(config, tmp_path_factory):
    """A folder with three runs: fit, calibrate under another mask, and a fit that goes on from the first."""
    root = tmp_path_factory.mktemp("root")
    where = ["--config", str(config), "--trainer.logger.init_args.save_dir", str(root)]
    quick = ["--calibration.alphas", "[]", "--calibration.show_table", "false", "--calibration.guard", "false"]
    first = ["--ckpt_path", str(root / "run/version_0/checkpoints/last.ckpt")]
    main(["fit", *where, *quick])
    main(["calibrate", *where, *quick, *first, *MASK])
    main(["fit", *where, *quick, *first, "--trainer.max_epochs", "2"])
    return root / "run"


def results(root, *arguments):
    """The results of `svd-lightning test` in a run folder of its own, and the checkpoint that its config names."""
    main(["test", *arguments, "--calibration.show_table", "false", "--trainer.logger.init_args.name", "tested"])
    folder = max((root.parent / "tested").iterdir(), key=lambda path: int(path.name.split("_")[1]))
    return json.loads((folder / "test.json").read_text()), yaml.safe_load((folder / "config.yaml").read_text())


@pytest.mark.parametrize(
    ("run", "name"), [("version_0", "last.ckpt"), ("version_1", "calibrated.ckpt"), ("version_2", "last.ckpt")]
)
def test_the_config_of_a_run_stands_for_its_last_checkpoint(run, name, root):
    config, own = root / run / "config.yaml", root / run / "checkpoints" / name
    found, used = results(root, "--config", str(config))
    assert used["ckpt_path"] == str(own)
    expected, _ = results(root, "--config", str(config), "--ckpt_path", str(own))
    assert found["nll_steered"] == expected["nll_steered"]
    assert found["nll_tuned"] != found["nll_base"]


def test_a_checkpoint_or_an_adapter_on_the_command_line_comes_first(root, tmp_path):
    given = root / "version_0/checkpoints/last.ckpt"
    _, used = results(root, "--config", str(root / "version_2/config.yaml"), f"--ckpt_path={given}")
    assert used["ckpt_path"] == str(given)
    open_run(root / "version_0").peft_model.save_pretrained(tmp_path / "adapter")
    adapter = ["--model.adapter", str(tmp_path / "adapter")]
    _, used = results(root, "--config", str(root / "version_0/config.yaml"), *adapter)
    assert used["ckpt_path"] is None


@pytest.mark.parametrize("verb", ["test", "predict", "validate", "calibrate"])
def test_an_adapter_without_training_is_not_scored(verb, config, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    message = refusal(capsys, verb, "--config", str(config))
    assert "ckpt_path: expected a trained adapter, got a new one and no checkpoint; write --ckpt_path" in message


def test_a_module_that_was_trained_or_filled_by_hand_is_scored_as_it_is(diaries, tmp_path):
    module, data = diary_model(), diary_data(diaries)
    with pytest.raises(InputError, match="expected a trained adapter, got a new one"):
        quiet_trainer(tmp_path).validate(module, datamodule=data)
    module.configure_model()
    quiet_trainer(tmp_path).validate(module, datamodule=data, verbose=False)


def named(*names):
    """Data that have these names, and read the diaries."""

    class Named(JSONLData):
        def dataset_names(self):
            return set(names)

    return Named


@pytest.mark.parametrize(
    ("trained", "used", "message"),
    [
        (
            ["BoolQ"],
            ["ARC-Easy"],
            "was trained on BoolQ, got the data ARC-Easy; .* --data.transfer true",
        ),
        (["ARC-Easy"], ["ARC-Challenge"], "trained on ARC-Easy, got the data ARC-Challenge"),
        (["ARC-Easy", "BoolQ"], ["BoolQ", "PIQA"], "trained on ARC-Easy, BoolQ, got the data BoolQ, PIQA"),
        (["ARC-Easy", "BoolQ"], ["BoolQ"], None),
        (["BoolQ"], ["BoolQ"], None),
        (["BoolQ"], [], None),
        ([], ["BoolQ"], None),
    ],
)
def test_a_checkpoint_of_another_task(trained, used, message, checkpoint, diaries, tmp_path):
    other = tmp_path / "other.ckpt"
    torch.save({**torch.load(checkpoint, weights_only=True), "datasets": trained}, other)

    def validate(**options):
        data = named(*used)(**vars_of(diary_data(diaries)), **options)
        quiet_trainer(tmp_path).validate(diary_model(), datamodule=data, ckpt_path=other, verbose=False)

    if message is not None:
        with pytest.raises(InputError, match=message):
            validate()
    validate(transfer=message is not None)


def vars_of(data):
    """The options that such data were made with."""
    names = ("path", "batch_size", "max_length", "calibration_path", "validation_path")
    return {name: getattr(data, name) for name in names}


def test_names_of_datasets():
    questions = {"boolq": BoolQ(), "easy": ARC(), "challenge": ARC(subset="ARC-Challenge")}
    assert BoolQ().dataset_names() == {"BoolQ"}
    assert Mixture(questions).dataset_names() == {"BoolQ", "ARC-Easy", "ARC-Challenge"}
    assert Mixture({**questions, "mine": JSONLData("mine.jsonl")}).dataset_names() == set()


def test_a_run_writes_the_names_of_its_datasets(checkpoint):
    assert torch.load(checkpoint, weights_only=True)["datasets"] == []
