"""`svd-lightning plan` as a user types it."""

import io
import json
import shutil
from contextlib import redirect_stdout
from functools import cache

import pytest
from safetensors.torch import load_file

from svd_lightning.cli import main
from svd_lightning.commands.plan.command import parse_size
from tests.chain import BASE_FOLDER, ROOT


@pytest.fixture(scope="module")
def run(config):
    """The verb on the configuration of a fit; the rows of its table by name, and all it printed."""

    @cache
    def plan(*arguments, of=config):
        with redirect_stdout(io.StringIO()) as printed:
            main(["plan", "--config", str(of), *arguments])
        text = printed.getvalue()
        cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
        return {row[0]: row[1:] for row in cells}, " ".join(text.split())

    return plan


def strategy(name):
    return "--config", str(ROOT / f"configs/strategy/{name}.yaml")


def test_the_table(run):
    rows, text = run("--gpu", "24GiB")
    assert rows["base weights"] == ["390.56 KiB"] * 3
    assert rows["adapter weights"] == ["8.00 KiB"] * 3
    assert rows["gradients"] == ["8.00 KiB", "8.00 KiB", ""]
    assert rows["optimizer states"] == ["16.03 KiB", "16.03 KiB", ""]
    assert rows["KV cache, both models"][:2] == ["", ""]
    assert "Activations are an estimate" in text
    assert "Fits 24.00 GiB" in text
    assert "per 1,000 completion tokens" in text


def test_no_verdict_without_a_gpu_and_a_clear_one_where_it_does_not_fit(run):
    assert "fit" not in run()[1].lower()
    assert "Does not fit 1.00 GiB" in run("--gpu", "1GiB")[1]
    assert "Fits 1.00 GiB" in run("--gpu", "1GiB", "--reserve", "0B")[1]


def test_strategies_by_one_more_config(run):
    one = run()[0]
    two = run(*strategy("fsdp2"), "--trainer.devices", "2", "--trainer.num_nodes", "4")
    assert "8 processes" in two[1]
    assert {"weights gathered"} == two[0].keys() - one.keys()
    assert two[0]["adapter weights"] == ["1.50 KiB"] * 3  # a row of each A, an eighth of each B
    assert {"buffers to send"} == run(*strategy("ddp"), "--trainer.devices", "2")[0].keys() - one.keys()
    assert run(*strategy("single"))[0] == run(*strategy("ddp"), "--trainer.devices", "1")[0] == one


def test_devices_that_are_not_here(run):
    gpus = "--trainer.accelerator", "gpu", "--trainer.precision", "bf16-true"
    rows, text = run(*strategy("fsdp"), *gpus, "--trainer.devices", "8")
    assert "Host memory of a node: 3.05 MiB while 8 × the base is read" in text
    assert rows["base weights"] == ["24.44 KiB"] * 3
    assert "3 processes" in run(*strategy("ddp"), *gpus, "--trainer.devices", "0,2,5")[1]


@pytest.mark.parametrize("path", sorted((ROOT / "configs/strategy").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_strategy_of_configs(path, run):
    assert "sum" in run("--config", str(path), "--trainer.devices", "1")[0]


def test_deepspeed_that_need_not_be_installed(run):
    """The strategy is never made: that would ask for the package, and for GPUs."""
    whole, split = (run(*strategy(f"deepspeed_zero{stage}"), "--trainer.devices", "4")[0] for stage in (2, 3))
    assert whole["buffers to send"][0] == "381.47 MiB"
    assert whole["base weights"] == ["390.56 KiB"] * 3
    assert split["buffers to send"][0] == "190.73 MiB"
    options = ["--trainer.strategy.init_args.persistence_threshold", "0", "--trainer.devices", "4"]
    rows, text = run(*strategy("deepspeed_zero3_offload"), *options)
    assert rows["base weights"] == ["64 B"] * 3
    assert "offloaded" in text


def test_the_snapshot_is_that_of_a_fit(run, fitted):
    [path] = fitted.glob("snapshot/*/*.safetensors")
    size = max(tensor.numel() * tensor.itemsize for tensor in load_file(path).values())
    tokens = json.loads((fitted / "calibration.json").read_text())["tokens"]
    assert f"at most {size / 2**10:.2f} KiB per process" in run("--tokens", str(tokens))[1]


def test_the_config_that_fit_saves(run, config, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(config), "--print_config"])
    (tmp_path / "config.yaml").write_text(capsys.readouterr().out)
    assert run(of=tmp_path / "config.yaml")[0] == run()[0]


def test_a_trained_adapter_and_the_base_that_it_names(run, config, tmp_path):
    shutil.copytree(BASE_FOLDER, tmp_path / "base")
    (tmp_path / "base/model.safetensors").unlink()
    (tmp_path / "base/tokenizer.json").unlink()
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "inference_mode": True, "r": 4}
    settings |= {"base_model_name_or_path": str(tmp_path / "base"), "target_modules": ["q_proj", "v_proj"]}
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps(settings))
    given = ["--model.backbone.name_or_path", "null", "--model.adapter", str(tmp_path / "adapter")]
    assert run(*given)[0] == run()[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--model.backbone.name_or_path", "null"],
            "backbone.name_or_path: expected a hub name or a local folder",
        ),
        (["--gpu", "24"], "gpu: expected a size with a unit such as 24GiB"),
        (["--trainer.precision", "64-true"], "trainer.precision: a plan can be made for"),
        (["--trainer.strategy", "fsdp"], "trainer.strategy: expected a strategy of configs/"),
        (["--model.adapter.init_args.target_modules", "[nothing]"], "adapter: cannot attach LoraConfig"),
    ],
)
def test_refusals_are_one_line(arguments, message, config):
    with pytest.raises(SystemExit) as caught:
        main(["plan", "--config", str(config), *arguments])
    assert str(caught.value).startswith(f"error: {message}")
    assert "\n" not in str(caught.value)


def test_sizes_have_units():
    assert parse_size("24GiB", "gpu") == 24 * 2**30
    assert parse_size(" 1.5 GB", "gpu") == 1_500_000_000


def test_help_lists_it(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "plan " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    assert "--gpu" in capsys.readouterr().out
