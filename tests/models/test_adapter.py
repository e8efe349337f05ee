"""Attaching adapters, and refusing those that cannot be steered."""

import json

import pytest
import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    TaskType,
    get_peft_model,
)

from svd_lightning.errors import InputError
from svd_lightning.models import Backbone, attach_new, attach_trained, read_adapter_config
from svd_lightning.models.adapter import adapter_template, as_class_path
from tests.chain import BASE_FOLDER

CONFIGS = [
    LoraConfig(r=3, target_modules=["v_proj", "q_proj"], lora_dropout=0.25, modules_to_save=["lm_head"]),
    LoraConfig(
        target_modules="all-linear", use_rslora=True, rank_pattern={"q_proj": 2}, init_lora_weights="gaussian"
    ),
    IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    PromptTuningConfig(num_virtual_tokens=5),
    PromptEncoderConfig(num_virtual_tokens=5, encoder_hidden_size=12, encoder_num_layers=3),
    PrefixTuningConfig(num_virtual_tokens=5, prefix_projection=True, encoder_hidden_size=12),
]


def base():
    return Backbone(name_or_path=str(BASE_FOLDER)).load_model()


@pytest.fixture
def folder(tmp_path):
    """An adapter folder as PEFT writes it, its weights not zero."""
    torch.manual_seed(0)
    model = get_peft_model(base(), LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_a_configuration_survives_as_plain_data(config):
    plain = json.loads(json.dumps(as_class_path(config)))
    kind = {each.__name__: each for each in map(type, CONFIGS)}[plain["class_path"].removeprefix("peft.")]
    again = kind(**plain["init_args"])
    assert again.to_dict() == config.to_dict()
    assert set(plain["init_args"]) < set(vars(config)), "differences only"


def test_a_new_adapter_knows_its_task_and_leaves_the_base_frozen():
    model = attach_new(base(), LoraConfig(target_modules=["q_proj"]))
    assert model.active_peft_config.task_type == TaskType.CAUSAL_LM
    assert {n.split(".")[-3] for n, p in model.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}


def test_a_trained_adapter_has_its_weights_and_its_dropout(folder):
    model = attach_trained(base(), str(folder), base_name=str(BASE_FOLDER), trainable=False)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    again = attach_trained(base(), str(folder), base_name=str(BASE_FOLDER), trainable=True)
    assert any(parameter.requires_grad for parameter in again.parameters())
    ids = torch.arange(6)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, again.eval()(ids).logits)
        assert not torch.allclose(model(ids).logits, base()(ids).logits)


def rewritten(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return str(folder)


@pytest.mark.parametrize("name", ["/elsewhere/base", "somebody/base", "", None])
def test_a_base_is_known_by_the_last_part_of_its_name(name, folder):
    attach_trained(base(), rewritten(folder, base_model_name_or_path=name), base_name="x/base", trainable=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"base_model_name_or_path": "Qwen/Qwen2.5-1.5B"},
            r"trained on the base 'Qwen/Qwen2\.5-1\.5B', got the base",
        ),
        ({"bias": "all"}, r"adapter\.bias: expected 'none', got 'all'"),
        ({"r": 8}, "does not fit the base"),
    ],
    ids=["base", "bias", "shape"],
)
def test_a_folder_that_does_not_fit(changes, message, folder):
    with pytest.raises(InputError, match=message) as caught:
        attach_trained(base(), rewritten(folder, **changes), base_name=str(BASE_FOLDER), trainable=True)
    assert "\n" not in str(caught.value)


def test_a_folder_without_weights(folder):
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match="adapter: cannot load the weights of"):
        attach_trained(base(), str(folder), base_name=str(BASE_FOLDER), trainable=True)


def test_a_folder_with_broken_weights(folder):
    (folder / "adapter_model.safetensors").write_bytes(b"{}")
    with pytest.raises(InputError, match="adapter: cannot load the weights of"):
        attach_trained(base(), str(folder), base_name=str(BASE_FOLDER), trainable=True)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LoraConfig(target_modules=["nope"]), "cannot attach LoraConfig: Target modules"),
        (
            LoraConfig(target_modules=["q_proj"], bias="lora_only"),
            r"adapter\.bias: expected 'none', got 'lora_only'",
        ),
    ],
)
def test_a_configuration_that_does_not_fit(config, message):
    with pytest.raises(InputError, match=message):
        attach_new(base(), config)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "which has no adapter_config.json"),
        ("{", "cannot read the adapter"),
        ("{}", "cannot read the adapter"),
        ('{"peft_type": "SORCERY"}', "cannot read the adapter"),
    ],
    ids=["missing", "not-json", "empty", "unknown"],
)
def test_a_folder_that_is_no_adapter(content, message, tmp_path):
    if content is not None:
        (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_adapter_config(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_read_adapter_config(folder):
    found = read_adapter_config(str(folder))
    assert isinstance(found, PeftConfig)
    assert found.r == 4


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
