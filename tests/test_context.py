"""What does not fit the base's context or vocabulary is refused before weights are loaded; what just fits runs."""

import shutil

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

from svd_lightning.commands.demo import BASE_FOLDER
from svd_lightning.errors import InputError
from svd_lightning.models import Backbone
from tests.chain import diary_data, diary_model, fit, quiet_trainer, write_jsonl

CONTEXT = 40
ADAPTERS = {
    "lora": (LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True), 0),
    "prompt": (PromptTuningConfig(num_virtual_tokens=6), 6),
    "prefix": (PrefixTuningConfig(num_virtual_tokens=6), 6),
}


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A base with learnt positions, 40 of them: one more is an IndexError."""
    folder, tokenizer = tmp_path_factory.mktemp("gpt2"), Backbone(str(BASE_FOLDER)).load_tokenizer()
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=CONTEXT, n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """Rows whose completions outgrow any context here."""
    folder = tmp_path_factory.mktemp("long")
    for split, count in {"train": 8, "calibration": 4, "validation": 2, "test": 2, "predict": 2}.items():
        rows = [
            {"id": f"{split}-{n}", "prompt": "winter :", "completion": "cold snow " * 40} for n in range(count)
        ]
        write_jsonl(folder / f"{split}.jsonl", rows)
    return folder


@pytest.mark.parametrize("name", ADAPTERS)
def test_all_positions_of_the_context_can_be_used_and_no_more(name, gpt2, long, tmp_path):
    adapter, virtual = ADAPTERS[name]

    def model(**generation):
        return diary_model(adapter, backbone=Backbone(str(gpt2)), generation=generation)

    room = CONTEXT - virtual
    with pytest.raises(InputError, match=f"data.max_length: .* context of {room} tokens, got {room + 1}"):
        fit(tmp_path, module := model(), diary_data(long, max_length=room + 1))
    assert module.model is None, "refused before the weights are loaded"
    trainer = fit(tmp_path, module, data := diary_data(long, max_length=room))

    saved = trainer.checkpoint_callback.last_model_path
    left = room - len(data.rows("predict")[0].prompt_ids)
    message = (
        f"generation.max_new_tokens: expected at most {left}, got {left + 1}: the model's context holds {room}"
    )
    for options in ({"max_new_tokens": left + 1}, {"max_length": room + 1}):
        with pytest.raises(InputError, match=message):
            quiet_trainer(tmp_path).predict(longer := model(**options), datamodule=data, ckpt_path=saved)
        assert longer.model is None
    GenerationConfig(max_new_tokens=left + 1).save_pretrained(own := shutil.copytree(gpt2, tmp_path / "own"))
    longer = diary_model(adapter, backbone=Backbone(str(own)), generation={})
    with pytest.raises(InputError, match=message):  # the base's own limit
        quiet_trainer(tmp_path).predict(longer, datamodule=data, ckpt_path=saved)
    with pytest.raises(InputError, match=r"max_length: expected more than .*, got 1; give max_new_tokens"):
        quiet_trainer(tmp_path).predict(model(max_length=1), datamodule=data, ckpt_path=saved)
    fits = model(max_new_tokens=left, min_new_tokens=left)
    quiet_trainer(tmp_path).predict(fits, datamodule=data, ckpt_path=saved)


@pytest.mark.parametrize("kind", ["word", "padding"])
def test_a_tokenizer_with_more_tokens_than_the_base_has_embeddings(kind, gpt2, long, tmp_path):
    tokenizer = Backbone(str(gpt2)).load_tokenizer()
    size = len(tokenizer)
    tokenizer.add_tokens(["cold snow"] if kind == "word" else [])
    if kind == "padding":
        tokenizer.add_special_tokens({"pad_token": "<padding>"})
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    backbone = Backbone(str(gpt2), tokenizer=str(tmp_path / "tokenizer"))
    where = {
        "word": rf"{size} \('cold snow'\), which stands in example 'train-0'",
        "padding": "'<padding>'\\), which pads",
    }
    with pytest.raises(InputError, match=f"backbone.tokenizer: expected ids below {size}, .*{where[kind]}"):
        fit(
            tmp_path,
            module := diary_model(ADAPTERS["lora"][0], backbone=backbone),
            diary_data(long, max_length=32),
        )
    assert module.model is None


def test_tokens_without_an_embedding_that_no_row_has_do_no_harm(gpt2, long, tmp_path):
    tokenizer = Backbone(str(gpt2)).load_tokenizer()
    tokenizer.add_tokens(["<image>"])  # Gemma 3's tokenizer has one
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    backbone = Backbone(str(gpt2), tokenizer=str(tmp_path / "tokenizer"))
    fit(tmp_path, diary_model(ADAPTERS["lora"][0], backbone=backbone), diary_data(long, max_length=32))
