"""Adapter folders that are damaged, or that do not fit the base, beside plain PEFT's reading of good ones."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import (
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    get_peft_model,
    get_peft_model_state_dict,
)
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from svd_lightning.errors import InputError
from svd_lightning.models import attach_trained, read_adapter_config
from svd_lightning.models.adapter_folder import adapter_template, read_weights
from svd_lightning.models.switch import adapter_off
from tests.chain import BASE_FOLDER, small_lora
from tests.decoding import zoo

IDS = torch.arange(3, 12)[None]
WEIGHTS = "adapter_model.safetensors"
EMBEDDING, HEAD = "base_model.model.model.embed_tokens.weight", "base_model.model.lm_head.weight"
QUERY = "base_model.model.model.layers.0.self_attn.q_proj.lora_"


def base():
    return AutoModelForCausalLM.from_pretrained(BASE_FOLDER).eval()


def saved(folder, config, **options):
    """What plain PEFT writes; returns the folder."""
    torch.manual_seed(0)
    config.task_type = "CAUSAL_LM"
    zoo.randomise(get_peft_model(base(), config)).save_pretrained(folder, **options)
    return folder


def attached(folder, **options):
    return attach_trained(base(), str(folder), base_name=str(BASE_FOLDER), **{"trainable": False, **options})


def rewrite(folder, change):
    """Apply a function to the weights of a folder."""
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)


def refusal(folder):
    with pytest.raises(InputError) as caught:
        attached(folder)
    message = str(caught.value)
    assert message.startswith("adapter: ")
    assert "; " in message, "a remedy"
    assert "\n" not in message
    return message


@pytest.fixture(scope="module")
def lora_folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("lora"), small_lora())


@pytest.fixture
def folder(lora_folder, tmp_path):
    """A copy that the test may spoil."""
    return Path(shutil.copytree(lora_folder, tmp_path / "adapter"))


def renamed(weights, old, new):
    for name in [*weights]:
        weights[name.replace(old, new)] = weights.pop(name)


MISFITS = {
    "a-key-missing": (lambda w: w.pop(f"{QUERY}B.weight"), f"it lacks the weights {QUERY}B.weight;"),
    "other-prefix": (
        lambda w: renamed(w, "base_model.model.model", "base_model.model.model.language_model"),
        f"it lacks the weights {QUERY}A.weight, {QUERY}B.weight, ",
    ),
    "no-prefix": (lambda w: renamed(w, "base_model.model.", ""), "v_proj.lora_A.weight and 5 more; give the base"),
    "a-key-too-many": (
        lambda w: w.update({f"{QUERY}C.weight": torch.ones(64)}),
        f"it holds weights that its configuration does not name: {QUERY}C.weight;",
    ),
    "a-shape": (
        lambda w: w.update({f"{QUERY}A.weight": torch.ones(5, 64)}),
        "copying a param with shape torch.Size([5, 64]) from checkpoint, the shape in current model is",
    ),
    "embeddings-trained": (
        lambda w: w.update({EMBEDDING: base().model.embed_tokens.weight + (torch.arange(85) == 7)[:, None]}),
        f"also holds weights of the base that differ from those of '{BASE_FOLDER}': {EMBEDDING}; without",
    ),
    "vocabulary-resized": (
        lambda w: w.update({EMBEDDING: torch.ones(88, 64), HEAD: torch.ones(88, 64)}),
        f"that differ from those of '{BASE_FOLDER}': {HEAD}, {EMBEDDING}; without",
    ),
    "a-layer-of-the-base": (
        lambda w: w.update({"base_model.model.model.norm.weight": torch.ones(64)}),
        "model.norm.weight; without the adapter the model would not be the base.",
    ),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_weights_that_do_not_fit_are_named(kind, folder):
    change, message = MISFITS[kind]
    rewrite(folder, change)
    assert message in refusal(folder)


OTHER_KINDS = {
    "lacks the weights base_model.model.lm_head.weight": (small_lora(modules_to_save=["lm_head"]), HEAD),
    "lacks the weights prompt_embeddings": (PromptEncoderConfig(num_virtual_tokens=3), "prompt_embeddings"),
    "lora_magnitude_vector": (small_lora(use_dora=True), f"{QUERY}magnitude_vector"),
    "token_adapter.trainable_tokens_delta": (
        small_lora(trainable_token_indices=[3]),
        "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta",
    ),
}


@pytest.mark.parametrize("message", OTHER_KINDS)
def test_what_other_kinds_of_adapters_lack_is_named(message, tmp_path):
    config, name = OTHER_KINDS[message]
    folder = saved(tmp_path, config)
    rewrite(folder, lambda weights: weights.update({"other": weights.pop(name)}))
    assert message in refusal(folder)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_copies_of_the_base_s_own_embeddings_do_no_harm(bfloat16, lora_folder, tmp_path):
    folder = saved(tmp_path, small_lora(), save_embedding_layers=True)
    if bfloat16:
        rewrite(folder, lambda weights: weights.update({EMBEDDING: weights[EMBEDDING].bfloat16()}))
    assert EMBEDDING in load_file(folder / WEIGHTS)
    model, plain = attached(folder), PeftModel.from_pretrained(base(), lora_folder)
    with torch.no_grad():
        assert torch.equal(model(input_ids=IDS).logits, plain.eval()(input_ids=IDS).logits)
        with adapter_off(model) as off:
            assert torch.equal(off(input_ids=IDS).logits, base()(input_ids=IDS).logits)


def test_pickled_weights_are_read_too(folder):
    weights = load_file(folder / WEIGHTS)
    torch.save(weights, folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()
    found = get_peft_model_state_dict(attached(folder), save_embedding_layers=False)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


@pytest.mark.parametrize("config", [PrefixTuningConfig, PromptEncoderConfig], ids=["prefix", "p-tuning"])
def test_virtual_tokens_are_trained_further_and_saved_again(config, tmp_path):
    folder = saved(tmp_path / "one", config(num_virtual_tokens=3, encoder_hidden_size=8))
    model = attached(folder, trainable=True).train()
    [(name, tokens)] = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    assert name == "prompt_encoder.default.embedding.weight"
    model(input_ids=IDS, labels=IDS).loss.backward()
    with torch.no_grad():
        tokens -= 0.1 * tokens.grad
    model.save_pretrained(tmp_path / "two")
    plain = PeftModel.from_pretrained(base(), tmp_path / "two").eval()
    with torch.no_grad():
        assert torch.equal(plain(input_ids=IDS).logits, model.eval()(input_ids=IDS).logits)
    assert not torch.equal(tokens, read_weights(str(folder))["prompt_embeddings"])


DAMAGED = {
    "truncated": (WEIGHTS, lambda data: data[:-100]),
    "cut-in-the-header": (WEIGHTS, lambda data: data[:20]),
    "no-safetensors": (WEIGHTS, lambda data: b"{}"),
    "empty": (WEIGHTS, lambda data: b""),
    "garbage-bin": ("adapter_model.bin", lambda data: b"garbage" * 9),
    "empty-bin": ("adapter_model.bin", lambda data: b""),
    "text-bin": ("adapter_model.bin", lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:1"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_weights(kind, folder):
    name, damage = DAMAGED[kind]
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(damage(data))
    message = refusal(folder)
    assert message.startswith(f"adapter: cannot load the weights of '{folder}': ")
    assert message.endswith("; copy the whole file again")


def test_pickled_things_that_are_no_weights(folder):
    (folder / WEIGHTS).unlink()
    torch.save([torch.ones(2)], folder / "adapter_model.bin")
    assert "expected tensors by name, got list" in refusal(folder)


def test_a_folder_without_weights(folder):
    (folder / WEIGHTS).unlink()
    assert "expected adapter_model.safetensors or adapter_model.bin, got neither" in refusal(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "which has no adapter_config.json; give the folder that save_pretrained wrote"),
        ("{", "adapter_config.json: Expecting property name"),
        ("[1]", "adapter_config.json: expected a JSON object, got list"),
        ("{}", "adapter_config.json: expected a peft_type that PEFT .* knows, got None"),
        ('{"peft_type": "SORCERY"}', "expected a peft_type that PEFT .* knows, got 'SORCERY'"),
        ('{"peft_type": ["LORA"]}', "expected a peft_type that PEFT .* knows, got .'LORA'."),
        ('{"peft_type": "LORA", "task_type": "MAGIC"}', "cannot read the adapter .*: Invalid task type: 'MAGIC'"),
        ('{"peft_type": "LORA", "layers_pattern": "h"}', "cannot read the adapter .*layers_to_transform"),
    ],
)
def test_a_folder_that_is_no_adapter(content, message, tmp_path):
    if content is not None:
        (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_adapter_config(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_folder_of_several_adapters_names_them(tmp_path):
    model = get_peft_model(base(), small_lora(), adapter_name="one")
    model.add_adapter("two", LoraConfig(target_modules=["q_proj"]))
    model.save_pretrained(tmp_path)
    one, two = tmp_path / "one", tmp_path / "two"
    assert refusal(tmp_path).endswith(f"which has no adapter_config.json; give one of its adapters: {one}, {two}")
    assert attached(one).active_peft_config.r == 4


def test_an_adapter_of_another_architecture(folder):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "target_modules": ["c_attn"]}))
    assert "cannot attach LoraConfig: Target modules {'c_attn'} not found in the base model" in refusal(folder)


def test_the_chat_template_of_an_adapter_folder(tmp_path):
    settings, jinja = tmp_path / "tokenizer_config.json", tmp_path / "chat_template.jinja"
    assert adapter_template(str(tmp_path)) is None
    named = [{"name": "tool_use", "template": "{{ tools }}"}, {"name": "default", "template": "{{ messages }}"}]
    for given, expected in ((None, None), ("{{ 1 }}", "{{ 1 }}"), (named, "{{ messages }}")):
        settings.write_text(json.dumps({"chat_template": given}))
        assert adapter_template(str(tmp_path)) == expected
    jinja.write_text("{{ 2 }}")
    assert adapter_template(str(tmp_path)) == "{{ 2 }}"
    jinja.unlink()
    for broken in ("{", "[]", json.dumps({"chat_template": named[:1]})):
        settings.write_text(broken)
        with pytest.raises(InputError, match="adapter: cannot read the chat template in"):
            adapter_template(str(tmp_path))
