"""Bad input on the command line: one line each, before any training."""

import re

import pytest
import torch

from svd_lightning import SteeredLanguageModel
from svd_lightning.cli import main
from tests.chain import other_base, write_jsonl


def refusal(capsys, *arguments):
    """Exit status and message of a refused command, known to be one line and to come before any training."""
    with pytest.raises(SystemExit) as caught:
        main([*arguments])
    code = caught.value.code
    output = capsys.readouterr()
    lines = [line for line in output.err.splitlines() if line.startswith("error:")]
    message = code if isinstance(code, str) else lines[-1]
    assert code not in (0, None)
    assert message.startswith("error: ")
    assert "\n" not in message
    assert "Traceback" not in output.err + output.out
    assert "Epoch 0" not in output.out
    return message


ROW = {"prompt": "winter on the coast , by a monk :", "completion": "cold dawn with snow ."}
BAD_FILES = {
    "empty": ([], "expected at least one example, got an empty dataset"),
    "blank": (["", "  "], "expected at least one example, got an empty dataset"),
    "not-json": ([ROW, ROW, "{'prompt': 1}"], "train.jsonl, line 3: expected JSON, got"),
    "not-an-object": ([ROW, "[1]"], "train.jsonl, line 2: expected a JSON object"),
    "lacks-a-key": ([ROW, {"prompt": "x"}], "train.jsonl, line 2: expected the column 'completion', got 'prompt'"),
    "not-text": ([{**ROW, "prompt": 3}], "train.jsonl, line 1: expected text in 'prompt', got 3"),
    "empty-completion": (
        [ROW, {**ROW, "completion": ""}],
        "train.jsonl, line 2: expected a completion, got an empty",
    ),
    "same-id": (
        [{**ROW, "id": "a"}] * 2,
        "expected a different one for each example of train, got 'a' twice; name another column in",
    ),
    "too-long": ([ROW, {**ROW, "prompt": "snow " * 70}], "1 of 2 prompts in the train split leave no room"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(name, config, tmp_path, capsys):
    rows, message = BAD_FILES[name]
    path = write_jsonl(tmp_path / "train.jsonl", rows)
    assert message in refusal(capsys, "fit", "--config", str(config), "--data.path", str(path))


BAD_OPTIONS = {
    "missing-file": (
        "--data.path nowhere.jsonl",
        "expected a file, a folder or a hub dataset, got 'nowhere.jsonl'",
    ),
    "prompt-beyond-context": ("--data.max_length 1000", "at most the model's context of 128 tokens, got 1000"),
    "unknown-column": (
        "--data.prompt_column question",
        "expected the column 'question', got 'id', 'prompt', 'compl",
    ),
    "alpha-0": ("--model.steering.alpha 0", "steering.alpha: expected a number in (0, 1]"),
    "alpha-2": ("--model.steering.alpha 2", "steering.alpha: expected a number in (0, 1]"),
    "penalty": ("--model.steering.penalty 1", "steering.penalty: expected λ ≤ 0"),
    "strength-nan": (
        "--model.steering.strengths [.nan]",
        "steering.strengths: expected finite numbers, got [nan]",
    ),
    "strengths": (
        "--model.steering.strengths [1,2]",
        "steering.strengths: expected one per rule (KLGradient), got 2",
    ),
    "no-calibration": (
        "--data.calibration_path null --data.calibration 0",
        "expected a calibration split of 2 examples or more, got none",
    ),
    "one-calibration-example": (
        "--data.calibration_path null --data.calibration 1",
        "expected a calibration split of 2 examples or more, got 1",
    ),
    "virtual-tokens": (
        "--model.adapter peft.PrefixTuningConfig --model.adapter.num_virtual_tokens 20 --data.max_length 120",
        "at most the model's context of 108 tokens, got 120; lower `max_length` (an adapter's virtual tokens",
    ),
    "rewrites-base": (
        "--model.adapter.init_args.init_lora_weights olora",
        "adapter.init_lora_weights: 'olora' rewrites the base weights",
    ),
    "schedule": (
        "--model.lr_schedule WARMUP_STABLE_DECAY",
        "cannot make WARMUP_STABLE_DECAY with lr_schedule_args {}: get_wsd_schedule() missing 1 required",
    ),
    "only-max-time": (
        "--trainer.max_epochs null --trainer.max_time 00:00:10:00",
        "a run that only trainer.max_time ends needs trainer.max_steps too, or --model.lr_schedule CONSTANT",
    ),
    "misspelt": ("--model.steering.alhpa 0.1", "unrecognized arguments: --model.steering.alhpa"),
    "misspelt-group": ("--modle.steering.alpha 0.1", "unrecognized arguments: --modle.steering.alpha"),
    "not-a-number": ("--trainer.max_epochs many", "trainer.max_epochs"),
    "unknown-class": ("--data NoSuchData", "NoSuchData"),
    "generation": ("--model.generation.max_new_token 4", "generation: unknown option max_new_token"),
    "temperature": (
        "--model.generation.temperature -1",
        "generation.temperature: expected a finite number above 0",
    ),
    "no-base": ("--model.backbone.name_or_path ./nowhere", "no such folder exists"),
    "no-adapter": ("--model.adapter null", "model.adapter: expected a PEFT configuration or an adapter folder"),
    "target": ("--model.adapter.init_args.target_modules [nope]", "adapter: cannot attach LoraConfig"),
    "bias": ("--model.adapter.init_args.bias all", "adapter.bias: expected 'none', got 'all'"),
    "checkpoint": ("--ckpt_path nowhere.ckpt", "ckpt_path: expected a checkpoint, got 'nowhere.ckpt'"),
    "config": ("--config nowhere.yaml", "nowhere.yaml"),
    "warmup": ("--model.warmup_ratio 3", "model.warmup_ratio: expected a share in [0, 1], got 3.0"),
    "precision": ("--trainer.precision 17", "precision"),
    "devices": ("--trainer.accelerator abacus", "abacus"),
    "several-rules": (
        "--model.steering.rules+=svd_lightning.steering.NaturalGradient "
        "--calibration.estimator svd_lightning.strength.Mean",
        "defined for a single rule",
    ),
    "features": (
        "--model.steering.features+=svd_lightning.steering.Entropy "
        "--calibration.estimator svd_lightning.strength.Mean",
        "defined for a single rule, got 2",
    ),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_options(name, config, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options, message = BAD_OPTIONS[name]
    assert message in refusal(capsys, "fit", "--config", str(config), *options.split())


def test_no_verb(capsys):
    assert "expected a verb" in refusal(capsys)


def test_a_checkpoint_of_another_base(config, checkpoint, tmp_path, capsys):
    base = other_base(tmp_path / "base")
    message = refusal(
        capsys,
        "predict",
        "--config",
        str(config),
        "--model.backbone.name_or_path",
        base,
        "--ckpt_path",
        checkpoint,
    )
    assert re.search("ckpt_path: its adapter was trained on the base .* give the base it was trained on", message)


def test_an_adapter_folder_for_another_base(config, checkpoint, tmp_path, capsys):
    SteeredLanguageModel.load_from_checkpoint(checkpoint).peft_model.save_pretrained(tmp_path / "adapter")
    base = other_base(tmp_path / "other")
    given = ["--model.adapter", str(tmp_path / "adapter"), "--model.backbone.name_or_path", base]
    message = refusal(capsys, "calibrate", "--config", str(config), *given)
    assert re.search("adapter: it was trained on the base '.*demo/base', got the base '.*other'", message)


def test_a_file_that_is_no_checkpoint(config, tmp_path, capsys):
    path = write_jsonl(tmp_path / "file.ckpt", [ROW])
    message = refusal(capsys, "predict", "--config", str(config), "--ckpt_path", str(path))
    assert "ckpt_path: cannot read" in message


def test_a_nan_adapter_in_calibration(config, checkpoint, tmp_path, capsys):
    model = SteeredLanguageModel.load_from_checkpoint(checkpoint).peft_model
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if "lora_A" in n)[0, 0] = torch.nan
    model.save_pretrained(tmp_path / "adapter")
    given = ["--config", str(config), "--model.adapter", str(tmp_path / "adapter")]
    assert "expected finite numbers or -inf, got NaN" in refusal(capsys, "calibrate", *given)


def test_traceback_on_request(config, monkeypatch):
    monkeypatch.setenv("SVD_LIGHTNING_TRACEBACK", "1")
    with pytest.raises(ValueError, match="alpha"):
        main(["fit", "--config", str(config), "--model.steering.alpha", "2"])
