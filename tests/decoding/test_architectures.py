"""Every architecture against two uncached forwards, or refused: where a model keeps its past."""

import threading

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import DynamicCache, T5Config, T5ForConditionalGeneration

from svd_lightning.decoding import steer_model
from svd_lightning.errors import InputError
from svd_lightning.models.hidden import base_head, base_hidden_states, tuned_head, tuned_hidden_states
from tests.decoding import architectures, zoo
from tests.decoding.reference import STEERING

NEW = 4
REFUSED = {
    **{
        (name, adapter): "keeps its past in"
        for name in ("rwkv", "xlnet", "xlm", "reformer")
        for adapter in ("lora", "dora")
    },
    ("recurrent_gemma", "dora"): "keeps its past inside its layers",
}
"""docs/limits.md lists these."""

FAST = [
    ("mamba", "dora"),
    ("recurrent_gemma", "lora"),
    ("rwkv", "lora"),
    ("recurrent_gemma", "dora"),
]
EVERYWHERE = [
    pytest.param(name, adapter, marks=() if (name, adapter) in FAST else pytest.mark.slow)
    for name in architectures.NAMES
    for adapter in ("lora", "dora")
]


def tuned_model(name, adapter):
    return architectures.tuned_model(name, use_dora=adapter == "dora")


def prompts():
    return zoo.prompts((7, 7))[0]


@torch.no_grad()
def uncached(model, ids):
    """Steered logits of the next token, from two forwards without a cache."""
    tuned = model(input_ids=ids, use_cache=False).logits[:, -1]
    with model.disable_adapter():
        return STEERING(tuned, model(input_ids=ids, use_cache=False).logits[:, -1])


@pytest.mark.parametrize(("name", "adapter"), EVERYWHERE)
def test_greedy_decoding_is_two_uncached_forwards_a_token(name, adapter):
    model, ids = tuned_model(name, adapter), prompts()
    if message := REFUSED.get((name, adapter)):
        with pytest.raises(InputError, match=message) as error:
            steer_model(model, STEERING)
        assert "\n" not in str(error.value)
        return
    options = {
        "do_sample": False,
        "max_new_tokens": NEW,
        "min_new_tokens": NEW,
        "attention_mask": torch.ones_like(ids),
    }
    found = steer_model(model, STEERING).generate(ids, **options, output_logits=True, return_dict_in_generate=True)
    for logits in found.logits:
        expected = uncached(model, ids)
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
        expected[:, zoo.EOS] = -torch.inf  # min_new_tokens
        ids = torch.cat([ids, expected.argmax(dim=-1, keepdim=True)], dim=1)
    assert torch.equal(found.sequences, ids)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=() if name in ("falcon_h1", "llama4_text", "modernbert-decoder") else pytest.mark.slow
        )
        for name in architectures.NAMES
    ],
)
@torch.no_grad()
def test_heads_give_the_models_own_logits(name):
    model, ids = tuned_model(name, "lora"), prompts()
    mask = torch.ones_like(ids)
    tuned = tuned_head(model)(tuned_hidden_states(model, ids, mask).flatten(0, 1))
    base = base_head(model)(base_hidden_states(model, ids, mask).flatten(0, 1))
    torch.testing.assert_close(
        tuned, model(input_ids=ids, attention_mask=mask).logits.flatten(0, 1), atol=1e-4, rtol=1e-4
    )
    with model.disable_adapter():
        expected = model(input_ids=ids, attention_mask=mask).logits.flatten(0, 1)
    torch.testing.assert_close(base, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "adapter"), [("mamba", "dora"), ("mamba", "lora"), ("rembert", "dora")])
def test_beams_take_both_pasts_along(name, adapter):
    """rembert's cache has two parts, mamba's no keys."""
    model, ids = steer_model(tuned_model(name, adapter), STEERING), prompts()
    options = {"num_beams": 3, "do_sample": False, "max_new_tokens": NEW, "attention_mask": torch.ones_like(ids)}
    assert torch.equal(model.generate(ids, **options), model.generate(ids, **options, use_cache=False))


@pytest.mark.parametrize("adapter", ["lora", "dora"])
@torch.no_grad()
def test_a_state_space_cache_that_the_caller_gives(adapter):
    model, ids = tuned_model("mamba", adapter), prompts()
    steered = steer_model(model, STEERING)
    first = steered(ids[:, :5], cache_params=DynamicCache(config=model.config), use_cache=True)
    second = steered(ids[:, 5:6], cache_params=first.cache_params, use_cache=True)
    torch.testing.assert_close(second.logits[:, -1], uncached(model, ids[:, :6]), atol=1e-5, rtol=1e-5)
    plain = model(input_ids=ids, use_cache=True).cache_params
    with pytest.raises(InputError, match="past_key_values: expected"):
        steered(ids[:, :1], cache_params=plain, use_cache=True)


def test_a_cache_that_cannot_be_copied_is_refused():
    ids, mask = zoo.prompts((6,))
    cache = DynamicCache()
    cache.lock = threading.Lock()
    with pytest.raises(InputError, match="past_key_values: expected a cache that can be copied") as error:
        steer_model(zoo.tuned_model("llama", "dora"), STEERING).generate(
            ids, attention_mask=mask, past_key_values=cache
        )
    assert "\n" not in str(error.value)


def test_an_encoder_decoder_is_refused():
    config = T5Config(vocab_size=zoo.VOCAB, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    model = get_peft_model(T5ForConditionalGeneration(config), LoraConfig(target_modules=["q"])).eval()
    with pytest.raises(InputError, match=r"expected a decoder-only .* encoder-decoder T5ForConditionalGeneration"):
        steer_model(model, STEERING)
