"""The folder for vLLM, as it is written; vLLM itself is not needed."""

import json
import os

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GPT2Config, GPT2LMHeadModel

from svd_lightning.cli import main
from svd_lightning.errors import InputError
from svd_lightning.models import Backbone
from svd_lightning.serving.folder import link_or_copy, save_served
from svd_lightning.serving.recipe import ADAPTER, ARCHITECTURES, KEY, Recipe
from svd_lightning.serving.servable import check_servable
from svd_lightning.steering import (
    CalibratedHead,
    Corrected,
    Entropy,
    KLGradient,
    Steering,
    TaskSteering,
    Temperature,
    as_plain,
)
from tests.serving import tiny

FORMATS = {"weights": "float32", "products": "float32", "residual": "float32", "head": "float32"}
MASKED = TaskSteering(Steering(strengths=(8.0,)))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.make_base("Llama", tmp_path_factory.mktemp("Llama"))


def save(folder, base, steering=MASKED, *, kind="LoRA", **options):
    model, tokenizer = tiny.with_adapter(base, kind), AutoTokenizer.from_pretrained(base)
    given = {"backbone": Backbone(str(base)), "generation": GenerationConfig(), **options}
    return save_served(folder, model, steering, tokenizer, **given)


def test_it_is_the_base_with_a_recipe(base, tmp_path):
    folder = save(tmp_path / "out", base)
    files = {path.name for path in folder.iterdir()}
    assert files >= {"config.json", "model.safetensors", "steering.safetensors", "tokenizer.json", "README.md"}
    config, before = (json.loads((place / "config.json").read_text()) for place in (folder, base))
    content, changed = config.pop(KEY), {"architectures", "dtype", "head_dtype"}
    assert {name for name in config if config[name] != before.get(name)} <= changed
    assert config["architectures"] == ["SteeredLlamaForCausalLM"]
    assert (content["reads_base"], content["steering"]["penalty"]) == (True, "-inf")
    assert content["arithmetic"] == FORMATS
    places = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    own = load_file(folder / "steering.safetensors")
    assert set(places) == {*load_file(base / "model.safetensors"), *own}
    assert len(own) == 2 * len(tiny.PROJECTIONS) * 3, "A, B and the scale of each projection of both layers"
    name = f"{ADAPTER}model.layers.1.self_attn.q_proj"
    assert own[f"{name}.lora_a"].shape == (4, tiny.SIZES["hidden_size"])
    assert own[f"{name}.scaling"] == 6 / 4**0.5, "rsLoRA"
    weights = (base / "model.safetensors").read_bytes()
    assert (folder / "model.safetensors").read_bytes() == weights
    assert not os.path.samefile(folder / "model.safetensors", base / "model.safetensors"), (
        "the base may be saved again"
    )


def test_files_of_the_cache_are_linked_or_else_copied(base, tmp_path, monkeypatch):
    weights = base / "model.safetensors"
    (tmp_path / "snapshot").symlink_to(weights)
    link_or_copy(tmp_path / "snapshot", tmp_path / "link")
    assert os.path.samefile(tmp_path / "link", weights)
    assert not (tmp_path / "link").is_symlink()

    def refuse(*places):
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", refuse)
    link_or_copy(tmp_path / "snapshot", tmp_path / "copy")
    assert not os.path.samefile(tmp_path / "copy", weights)
    assert (tmp_path / "copy").read_bytes() == weights.read_bytes()


def test_a_base_in_several_files_stays_so(base, tmp_path):
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(tmp_path / "cut", max_shard_size="300KB")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "cut")
    folder = save(tmp_path / "out", tmp_path / "cut")
    shards = {path.name for path in (tmp_path / "cut").glob("*.safetensors")}
    assert len(shards) > 1
    assert {path.name for path in folder.glob("*.safetensors")} == {*shards, "steering.safetensors"}
    places = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(places.values()) == {*shards, "steering.safetensors"}


def test_a_recipe_comes_back():
    generator = torch.Generator().manual_seed(0)
    head = CalibratedHead(torch.tensor([3, 5]), torch.randn(2, 8, generator=generator))
    rules, strengths = (KLGradient(), Temperature()), (1.0, -2.0, 0.5, 0.25)
    shared = Corrected(rules, strengths, 0.3, float("-inf"), (Entropy(),), head)
    recipe = Recipe(shared, FORMATS)
    again = Recipe.read(json.loads(json.dumps(recipe.as_plain())), recipe.tensors())
    assert as_plain(again.steering) == as_plain(shared), "rules, features, mask, penalty and correction"
    assert recipe.as_plain()["reads_base"]
    logits = torch.randn(2, 9, generator=generator)
    exact, finite = (each.steering(logits, logits.flip(0)).softmax(-1) for each in (again, again.finite()))
    assert torch.equal(exact, finite), "a finite λ leaves probability 0"
    newer = recipe.as_plain() | {"format_version": 99}
    with pytest.raises(InputError, match="the folder has format 99"):
        Recipe.read(newer, {})


def test_requests_decode_as_the_run_does(base, tmp_path):
    greedy = json.loads((save(tmp_path / "greedy", base) / "generation_config.json").read_text())
    assert greedy == {"temperature": 0.0}
    options = GenerationConfig(do_sample=True, temperature=0.7, max_new_tokens=9, eos_token_id=[2, 5])
    folder = save(tmp_path / "sampled", base, generation=options)
    sampled = json.loads((folder / "generation_config.json").read_text())
    assert sampled == {"temperature": 0.7, "top_k": 50, "eos_token_id": [2, 5]}


def test_a_run_is_exported_by_the_command_line(fitted, tmp_path, capsys):
    out = tmp_path / "out"
    main(["export", str(fitted), str(out), "--for", "vllm"])
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    assert KEY in json.loads((out / "config.json").read_text())
    main(["export", str(fitted), str(out), "--for=vllm"])  # replaces it
    (out / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit, match=r"is an export that also holds notes\.txt; move that away"):
        main(["export", str(fitted), str(out), "--for=vllm"])
    assert (out / "notes.txt").read_text() == "mine"


def test_other_folders_are_left_alone(base, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine").touch()
    with pytest.raises(InputError, match="out: expected a new folder, got the file"):
        save(tmp_path / "file", base)
    with pytest.raises(InputError, match="out: expected a new folder or an export to replace"):
        save(tmp_path / "other", base)


def refused(model, base):
    with pytest.raises(InputError) as error:
        check_servable(model.eval(), Backbone(str(base)))
    return str(error.value)


def test_other_models_and_adapters_are_refused(base):
    other = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=11))
    line = refused(get_peft_model(other, LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True)), base)
    assert all(name in line for name in (*ARCHITECTURES, "GPT2LMHeadModel"))
    kinds = {
        "DoRA": LoraConfig(target_modules=["q_proj"], use_dora=True),
        "head": LoraConfig(target_modules=["q_proj", "lm_head"]),
        "embedding": LoraConfig(target_modules=["q_proj", "embed_tokens"]),
        "saved": LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"]),
        "bias": LoraConfig(target_modules=["q_proj"], lora_bias=True),
        "prompt": PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"),
    }
    for name, config in kinds.items():
        line = refused(get_peft_model(AutoModelForCausalLM.from_pretrained(base), config), base)
        assert line.startswith("adapter: expected plain LoRA or IA3 on the q, k, v"), name


def test_other_steering_is_refused(base, tmp_path):
    steering = TaskSteering(MASKED.shared, {"boolq": Steering(strengths=(1.0,))})
    with pytest.raises(
        InputError, match="run: expected one steering for all requests, got others for the tasks boolq"
    ):
        save(tmp_path / "out", base, steering)
    with pytest.raises(InputError, match=r"steering\.strengths: expected a calibrated steering"):
        save(tmp_path / "out", base, TaskSteering(Steering()))
    assert not (tmp_path / "out").exists()
