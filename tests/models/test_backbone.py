"""Loading a base and recognising it again."""

import json

import pytest
import torch

from svd_lightning.commands.demo import BASE_FOLDER
from svd_lightning.errors import InputError
from svd_lightning.models import Backbone, context_length, fingerprint
from svd_lightning.models.backbone import existing
from tests.chain import other_base

BASE = Backbone(name_or_path=str(BASE_FOLDER))


@pytest.fixture
def base_copy(tmp_path):
    """The embedded base in a folder that tests may spoil."""
    BASE.load_model().save_pretrained(tmp_path / "copy")
    BASE.load_tokenizer().save_pretrained(tmp_path / "copy")
    return tmp_path / "copy"


def test_the_model_comes_frozen_in_evaluation_mode():
    model = BASE.load_model()
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert context_length(BASE.load_config()) == 128


@pytest.mark.parametrize(("dtype", "expected"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)])
def test_dtype(dtype, expected):
    assert Backbone(name_or_path=str(BASE_FOLDER), dtype=dtype).load_model().dtype == expected


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention(attention):
    model = Backbone(name_or_path=str(BASE_FOLDER), attn_implementation=attention).load_model()
    assert model.config._attn_implementation == attention


def test_one_base_has_one_fingerprint_whatever_its_folder_dtype_or_adapter(base_copy):
    from peft import LoraConfig, get_peft_model

    prints = {
        fingerprint(BASE.load_model()),
        fingerprint(Backbone(name_or_path=str(base_copy)).load_model()),
        fingerprint(Backbone(name_or_path=str(BASE_FOLDER), dtype="bfloat16").load_model()),
        fingerprint(Backbone(name_or_path=str(BASE_FOLDER), attn_implementation="eager").load_model()),
        fingerprint(get_peft_model(BASE.load_model(), LoraConfig(target_modules=["q_proj"])).get_base_model()),
    }
    assert len(prints) == 1


def test_another_base_has_another_fingerprint(base_copy, tmp_path):
    changed = other_base(tmp_path / "changed")
    config = json.loads((base_copy / "config.json").read_text())
    (base_copy / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    prints = [fingerprint(Backbone(name_or_path=str(f)).load_model()) for f in (BASE_FOLDER, changed, base_copy)]
    assert len(set(prints)) == 3


def test_a_tokenizer_of_another_folder_and_one_without_padding(base_copy):
    path = base_copy / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings.pop("pad_token")
    path.write_text(json.dumps(settings))
    tokenizer = Backbone(name_or_path=str(BASE_FOLDER), tokenizer=str(base_copy)).load_tokenizer()
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 2


def test_names_and_folders(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert existing("model", "x") == existing("./model", "x") == str(tmp_path / "model")
    assert existing("Qwen/Qwen2.5-1.5B", "x") == "Qwen/Qwen2.5-1.5B"
    for name in ("./nowhere", "/nowhere/at/all", "~/nowhere", "a/b/c"):
        with pytest.raises(InputError, match="x: expected a model folder or a hub name"):
            existing(name, "x")


@pytest.mark.parametrize(
    ("options", "load", "message"),
    [
        ({"name_or_path": None}, "load_config", "backbone.name_or_path: expected a hub name or a local folder"),
        ({"name_or_path": "EMPTY"}, "load_config", "backbone.name_or_path: cannot load"),
        ({"name_or_path": "EMPTY"}, "load_model", "backbone.name_or_path: cannot load"),
        ({"tokenizer": "./nowhere"}, "load_tokenizer", "backbone.tokenizer: expected a model folder"),
        ({"tokenizer": "EMPTY"}, "load_tokenizer", "backbone.tokenizer: cannot load"),
        ({"load_in_4bit": True}, "load_model", "^backbone: 4-bit and 8-bit loading need a CUDA device"),
        ({"load_in_8bit": True}, "load_model", "^backbone: 4-bit and 8-bit loading need a CUDA device"),
    ],
)
def test_bad_input_is_one_line(options, load, message, tmp_path):
    if torch.cuda.is_available() and "load_in" in str(options):
        pytest.skip("there is a GPU")
    options = {key: str(tmp_path) if value == "EMPTY" else value for key, value in options.items()}
    with pytest.raises(InputError, match=message) as caught:
        getattr(Backbone(**{"name_or_path": str(BASE_FOLDER), **options}), load)()
    assert "\n" not in str(caught.value)


def test_a_base_with_broken_weights_is_one_line(base_copy):
    (base_copy / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(InputError, match=r"backbone\.name_or_path: cannot load"):
        Backbone(name_or_path=str(base_copy)).load_model()


def test_both_quantisations_at_once():
    with pytest.raises(InputError, match="expected at most one"):
        Backbone(load_in_4bit=True, load_in_8bit=True)


def test_a_real_base(shared):
    model = Backbone(name_or_path=str(shared / "models" / "wiki-tiny")).load_model()
    assert len(fingerprint(model)) == 32


def test_a_chat_template_may_be_named_as_a_file_or_given_as_text(tmp_path):
    text = "{% for m in messages %}{{ m.content }}{% endfor %}"
    (tmp_path / "mine.jinja").write_text(text)
    for given in (text, str(tmp_path / "mine.jinja")):
        assert Backbone(str(BASE_FOLDER), chat_template=given).load_tokenizer().chat_template == text
    with pytest.raises(InputError, match=r"^backbone.chat_template: cannot read .*gone\.jinja"):
        Backbone(str(BASE_FOLDER), chat_template=str(tmp_path / "gone.jinja")).load_tokenizer()


@pytest.mark.parametrize("eos", [5, [5, 7]])
def test_the_bases_stops_are_those_of_its_generation_config(base_copy, eos):
    path = base_copy / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": eos}))
    backbone = Backbone(str(base_copy))
    assert backbone.load_stops() == backbone.load_model().generation_config.eos_token_id == eos
    path.unlink()
    assert backbone.load_stops() == backbone.load_model().generation_config.eos_token_id == 2
