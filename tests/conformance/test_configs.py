"""Every YAML under configs/ parses against the code, alone or on top of the embedded base; adapters are run.

Sweep files (test_sweeps.py) and published figures (tests/commands/sweep) have tests of their own.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from svd_lightning import SteeredLanguageModel
from svd_lightning.cli import main
from tests.chain import BASE_FOLDER, ROOT, write_config
from tests.conformance.test_sweeps import SWEEPS

OTHERS = [*(ROOT / "configs" / "paper").glob("*.yaml"), *SWEEPS]
CONFIGS = sorted(set((ROOT / "configs").rglob("*.yaml")) - set(OTHERS))
ADAPTERS = sorted((ROOT / "configs" / "adapter").glob("*.yaml"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT / "configs"))


PLACES = ("model.adapter", "data")
"""Options whose value may be a YAML file of class_path and init_args."""


def settings(path: Path) -> Any:
    """A YAML file, with the files that it names in their places."""
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    return included(given, path.parent)


def included(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {key: included(item, folder) for key, item in value.items()}
    is_file = isinstance(value, str) and value.endswith(".yaml")
    return settings(folder / value) if is_file else value


def test_there_are_some():
    assert len(CONFIGS) > len(ADAPTERS) >= 5


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_it_parses_and_every_key_is_known(path, capsys):
    given = settings(path)
    if "class_path" in given:  # a part of a configuration
        given = {"model": {"adapter": given}} if path.parent.name == "adapter" else {"data": given}
        needed = [f"--{place}" for place in PLACES if path.parent.name == place.rpartition(".")[2]] + [str(path)]
    else:
        needed = ["--config", str(path)]
    model = given.get("model", {})
    if "class_path" not in given.get("data", {}):
        needed = ["--data", "JSONLData", "--data.path", "x.jsonl", *needed]
    if "adapter" not in model:
        needed += ["--model.adapter", "some/adapter"]
    with pytest.raises(SystemExit) as caught:
        main(["fit", *needed, "--print_config"])
    output = capsys.readouterr()
    assert caught.value.code in (0, None), output.err
    assert contains(yaml.safe_load(output.out), given)


def contains(whole, part) -> bool:
    """Whether every entry of `part` is in `whole`, at the same place."""
    if isinstance(part, dict):
        return all(key in whole and contains(whole[key], value) for key, value in part.items())
    if isinstance(part, list):
        return len(part) == len(whole) and all(map(contains, whole, part))
    return whole == part or str(whole).rpartition(".")[2] == str(part).rpartition(".")[2]


@pytest.mark.parametrize("path", ADAPTERS, ids=name)
def test_every_adapter_runs_two_steps_and_comes_back(path, diaries, tmp_path):
    config = write_config(tmp_path / "run.yaml", diaries, tmp_path, trainer={"max_steps": 2})
    given = settings(path)
    main(
        [
            *("fit", "--config", str(config), "--model.adapter", str(path)),
            *("--calibration.alphas", "[]", "--calibration.show_table", "false", "--calibration.guard", "false"),
        ]
    )
    module = SteeredLanguageModel.load_from_checkpoint(tmp_path / "run/version_0/checkpoints/last.ckpt")
    assert module.backbone.name_or_path == str(BASE_FOLDER)
    assert f"peft.{type(module.adapter_config).__name__}" == given["class_path"]
    for option, value in given["init_args"].items():
        found = getattr(module.adapter_config, option)
        assert (sorted(found) if isinstance(found, set) else found) == (
            sorted(value) if isinstance(value, list) else value
        )
    assert module.steering.calibrated
    assert any(torch.any(p != 0) for p in module.parameters() if p.requires_grad)
