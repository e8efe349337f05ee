"""Artefacts round-trip bit for bit; what is damaged, newer or of another base is refused."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from svd_lightning import load_artifact, save_artifact, steer_model
from svd_lightning.artifact.content import CONFIG, digest_of, read_content
from svd_lightning.errors import InputError
from svd_lightning.steering import (
    Agreement,
    ConfidentSet,
    Divergence,
    Entropy,
    KLGradient,
    NaturalGradient,
    Steering,
    TaskAware,
    TaskSteering,
    Temperature,
    as_plain,
    tasks_as_plain,
)
from tests.artifact.conftest import STEERING
from tests.decoding import zoo

RECIPES = {
    "paper": Steering(strengths=[1 / 3]),
    "joint": Steering([KLGradient(), NaturalGradient(), Temperature()], [0.1, -7e-12, 1e3], penalty=-0.1),
    "contextual": Steering(
        [KLGradient()], [1.2, 4.0, -2.0, 0.7], features=[Entropy(), Divergence(), Agreement()], penalty=-math.inf
    ),
    "task_aware": Steering([TaskAware()], [2.5], alpha=0.05),
    "confident_set": Steering([KLGradient(), ConfidentSet()], [1.5, 2.0], penalty=0.0),
    "unmasked": Steering([NaturalGradient()], [0.4], alpha=None),
}


@pytest.fixture
def folder(exported, tmp_path):
    """A copy of an artefact, to be damaged."""
    return shutil.copytree(exported("lora")[1], tmp_path / "artefact")


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_comes_back_and_travels(name, base_folder, tokenizer, tmp_path):
    model = zoo.tuned_model()
    model.active_peft_config.base_model_name_or_path = base_folder
    path = save_artifact(tmp_path / name, model, RECIPES[name], tokenizer)
    loaded = load_artifact(path)
    assert as_plain(loaded.steering) == as_plain(RECIPES[name])
    ids, mask = zoo.prompts()
    inputs = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 5, "do_sample": False}
    found = loaded.steered().generate(**inputs)
    portable = loaded.peft_model.generate(**inputs, custom_generate=str(path), trust_remote_code=True)
    assert torch.equal(found, portable)
    again = save_artifact(tmp_path / "again", loaded.peft_model, loaded.steering, loaded.tokenizer)
    for file in ("adapter_model.safetensors", "custom_generate/generate.py", "tokenizer.json"):
        assert (again / file).read_bytes() == (path / file).read_bytes(), file


@torch.no_grad()
def test_strengths_of_every_task_come_back_and_travel(base_folder, tokenizer, tmp_path):
    model = zoo.tuned_model()
    model.active_peft_config.base_model_name_or_path = base_folder
    own = {"near": STEERING.with_strengths([-1.0, 0.0]), "far": STEERING.with_strengths([0.0, 3.0])}
    steering = TaskSteering(STEERING, own)
    path = save_artifact(tmp_path / "out", model, steering, tokenizer)
    loaded = load_artifact(path)
    assert tasks_as_plain(loaded.task_steering) == tasks_as_plain(steering)
    ids, mask = zoo.prompts()
    inputs = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 5, "num_beams": 2, "do_sample": False}
    custom = {"custom_generate": str(path), "trust_remote_code": True}
    results = []
    for task, one in {None: STEERING, "unknown": STEERING, "far": own["far"]}.items():
        results.append(steer_model(model, one).generate(**inputs))
        assert torch.equal(loaded.steered(task).generate(**inputs), results[-1])
        assert torch.equal(loaded.peft_model.generate(**inputs, **custom, task=task), results[-1])
    assert not torch.equal(results[1], results[2])
    rows = ["near", None, "far"]
    expected = steer_model(model, steering.of_batch({"task": rows})).generate(**inputs)
    assert torch.equal(loaded.steered(rows).generate(**inputs), expected)
    assert torch.equal(loaded.peft_model.generate(**inputs, **custom, task=rows), expected)
    assert "| far | KLGradient, NaturalGradient | 0, 3 |" in (path / "README.md").read_text()


@pytest.mark.parametrize("adapter", ["lora", "ia3", "prompt", "p_tuning_mlp", "prefix", "dora", "lora_saved_head"])
def test_weights_come_back_bit_for_bit(adapter, exported, base_folder):
    model, folder = exported(adapter)
    loaded = load_artifact(folder, base=AutoModelForCausalLM.from_pretrained(base_folder))
    stored = load_file(f"{folder}/adapter_model.safetensors")
    for found in map(get_peft_model_state_dict, (model, loaded.peft_model)):
        assert stored.keys() == found.keys()
        assert all(torch.equal(stored[name], found[name]) for name in stored)


def test_it_holds_what_it_should_and_no_pickle(exported):
    _, folder = exported("lora")
    files = {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}
    assert files == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "custom_generate/generate.py",
        "generation_config.json",
        "steering_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    content = read_content(Path(folder))
    assert content["steering"] == {**as_plain(STEERING), "penalty": "-inf", "intervals": None}
    assert set(content["files"]) == files - {"README.md", "steering_config.json"}
    assert content["versions"]["peft"]
    assert not [path for path in Path(folder).parent.iterdir() if path.name.startswith(".")], (
        "nothing is left over"
    )


def reseal(folder, **changes):
    """A configuration that someone edited, own digest and all."""
    content = json.loads((folder / CONFIG).read_text()) | changes
    content["sha256"] = digest_of({name: value for name, value in content.items() if name != "sha256"})
    (folder / CONFIG).write_text(json.dumps(content))


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


DAMAGE = {
    "weights cut short": (
        lambda f: _truncate(f / "adapter_model.safetensors"),
        "adapter_model.safetensors in .* differ",
    ),
    "code edited": (lambda f: (f / "custom_generate/generate.py").write_text("pass"), "generate.py in .* differ"),
    "file missing": (lambda f: (f / "tokenizer.json").unlink(), "lacks tokenizer.json; copy the whole folder"),
    "configuration cut short": (lambda f: _truncate(f / CONFIG), "it is cut short or damaged"),
    "strength edited": (
        lambda f: (f / CONFIG).write_text((f / CONFIG).read_text().replace("1.2", "1.3", 1)),
        "is not as it was written",
    ),
    "newer format": (lambda f: reseal(f, format_version=3), "has format 3, this version reads up to 2; upgrade"),
    "no format": (lambda f: (f / CONFIG).write_text("{}"), "names no format_version"),
    "no configuration": (lambda f: (f / CONFIG).unlink(), "expected a folder with steering_config.json"),
    "rule from elsewhere": (
        lambda f: reseal(
            f, steering={**as_plain(STEERING), "rules": [{"class_path": "os.system", "init_args": {}}]}
        ),
        "got 'os.system'",
    ),
    "base moved away": (
        lambda f: reseal(f, base={"name": "/nowhere/base", "revision": None, "fingerprint": "", "dtype": ""}),
        "no such folder exists",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_refused_with_the_reason(case, folder):
    damage, message = DAMAGE[case]
    damage(folder)
    with pytest.raises(InputError, match=message) as caught:
        load_artifact(folder)
    assert "\n" not in str(caught.value)


def test_the_card_may_be_edited(folder):
    (folder / "README.md").write_text("mine")
    assert load_artifact(folder).steering.strengths == (1.2, 0.3)


def test_another_base_is_refused(folder):
    with pytest.raises(InputError, match="base: this artefact steers"):
        load_artifact(folder, base=zoo.base_model("llama", seed=1))


class Mine(KLGradient):
    """A rule of the user's own."""


UNFIT = {
    "uncalibrated": (Steering(), "expected a calibrated steering"),
    "own rule": (Steering([Mine()], [1.0]), "a class of your own does not travel"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_cannot_travel_is_refused_before_anything_is_written(case, tokenizer, tmp_path):
    steering, message = UNFIT[case]
    with pytest.raises(InputError, match=message):
        save_artifact(tmp_path / "out", zoo.tuned_model(), steering, tokenizer)
    with pytest.raises(InputError, match="training mode"):
        save_artifact(tmp_path / "out", zoo.tuned_model().train(), STEERING, tokenizer)
    assert not list(tmp_path.iterdir())


def test_only_artefacts_are_replaced(folder, tokenizer, tmp_path):
    model = zoo.tuned_model()
    before = (folder / CONFIG).read_bytes()
    save_artifact(folder, model, STEERING.with_strengths([2.0, 0.0]), tokenizer)
    assert (folder / CONFIG).read_bytes() != before
    (folder / "notes.txt").write_text("mine")
    (tmp_path / "file").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/precious.txt").touch()
    for target, message in {
        "artefact": "also holds notes.txt",
        "file": "got the file",
        "other": "precious",
    }.items():
        with pytest.raises(InputError, match=message):
            save_artifact(tmp_path / target, model, STEERING, tokenizer)
    assert (tmp_path / "other/precious.txt").exists()


def test_a_failure_leaves_the_old_artefact(folder, tokenizer):
    class Full(type(tokenizer)):
        def save_pretrained(self, *args, **kwargs):
            raise OSError("no space left on device")

    before = (folder / CONFIG).read_bytes()
    full = Full(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(OSError, match="no space"):
        save_artifact(folder, zoo.tuned_model(), STEERING, full)
    assert (folder / CONFIG).read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_an_adapter_of_another_name(base_folder, tokenizer, tmp_path):
    model = zoo.tuned_model()
    model.add_adapter("second", zoo.lora("llama"))
    model.set_adapter("second")
    zoo.randomise(model, seed=4)
    model.active_peft_config.base_model_name_or_path = base_folder
    loaded = load_artifact(save_artifact(tmp_path / "out", model, STEERING, tokenizer))
    ids, mask = zoo.prompts()
    inputs = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 5, "do_sample": False}
    assert torch.equal(loaded.steered().generate(**inputs), steer_model(model, STEERING).generate(**inputs))
