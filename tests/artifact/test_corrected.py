"""A correction as files for other programs: what plain PEFT and transformers make of them."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, GenerationConfig

from svd_lightning.artifact.corrected import SERVER_OPTIONS, save_corrected, save_options
from svd_lightning.decoding import steer_model
from svd_lightning.errors import InputError
from svd_lightning.scoring.tokens import logit_chunks
from svd_lightning.steering import (
    AdapterScale,
    CalibratedHead,
    Corrected,
    KLGradient,
    LabelBias,
    NaturalGradient,
    Prior,
    Steering,
    Temperature,
)
from tests.decoding import zoo
from tests.models.test_scale import SCALABLE
from tests.models.test_scale import adapted as adapted_by

TOKENS = torch.tensor([5, 9, 40])
HEAD = CalibratedHead(TOKENS, 0.5 * torch.randn(3, zoo.HIDDEN, generator=torch.Generator().manual_seed(0)))


def adapted(model_type, **options):
    """A random LoRA on a fresh base; the same at every call."""
    torch.manual_seed(3)
    base = zoo.base_model(model_type)
    config = LoraConfig(**{"target_modules": ["q_proj", "v_proj"], "init_lora_weights": False, "r": 2, **options})
    return get_peft_model(base, config).eval()


def outputs(model, ids, **options):
    with torch.no_grad():
        logits = model(input_ids=ids).logits
    return logits, model.generate(input_ids=ids, do_sample=False, max_new_tokens=6, **options)


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"target_modules": r".*\.(q|v)_proj"}], ids=str)
@pytest.mark.parametrize("model_type", ["llama", "opt"])
def test_plain_peft_loads_the_calibrated_head(model_type, options, tokenizer, tmp_path):
    """OPT ties its head to the embeddings, which stay as they are."""
    ids, _ = zoo.prompts((7, 7))
    model = adapted(model_type, **options)
    expected = outputs(steer_model(model, Corrected.of(Steering(), HEAD)), ids)
    zoo.base_model(model_type).save_pretrained(tmp_path / "base")
    save_corrected(tmp_path / "out", model, HEAD, tokenizer)
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "out")
    found = outputs(again.eval(), ids)
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=1e-5)
    assert torch.equal(found[1], expected[1])


def test_rules_steer_an_exported_head_as_they_steer_the_corrected_model(tokenizer, tmp_path):
    """So calibrating the exported folder on other rows fits rules to what the head leaves (docs/method.md)."""
    ids, _ = zoo.prompts((7, 7))
    model, rules = adapted("llama"), ([KLGradient(), NaturalGradient()], [1.5, 0.7], 0.3, 0.0)
    expected = outputs(steer_model(model, Corrected(*rules, correction=HEAD)), ids)
    zoo.base_model("llama").save_pretrained(tmp_path / "base")
    save_corrected(tmp_path / "out", model, HEAD, tokenizer)
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "out")
    found = outputs(steer_model(again.eval(), Steering(*rules)), ids)
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=1e-5)
    assert torch.equal(found[1], expected[1])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    before, after = (next(logit_chunks(one, batch)) for one in (model, again))
    torch.testing.assert_close(after.base_logits, before.base_logits)
    corrected = HEAD(before.tuned_logits, before.tuned_states)
    torch.testing.assert_close(after.tuned_logits, corrected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", SCALABLE)
def test_plain_peft_loads_the_adapter_at_its_scale(family, tokenizer, tmp_path):
    ids, _ = zoo.prompts((7, 7))
    model, scale = adapted_by(family), AdapterScale(1.25**3)
    expected = outputs(steer_model(model, Corrected.of(Steering(), scale)), ids)
    zoo.base_model("llama").save_pretrained(tmp_path / "base")
    save_corrected(tmp_path / "out", model, scale, tokenizer)
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "out")
    found = outputs(again.eval(), ids)
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=1e-5)
    assert torch.equal(found[1], expected[1])
    assert not torch.equal(found[1], outputs(model, ids)[1])


@pytest.mark.parametrize("kind", [LabelBias, Prior])
def test_a_bias_becomes_options_of_generate(kind, tokenizer, tmp_path):
    ids, _ = zoo.prompts((7, 7))
    model, bias = adapted("llama"), Corrected.of(Steering(), kind(TOKENS, torch.tensor([2.0, -1.0, 3.0])))
    _, expected = outputs(steer_model(model, bias), ids)
    save_options(tmp_path / "out", model, bias, tokenizer)
    config = GenerationConfig.from_pretrained(tmp_path / "out")
    found = model.generate(input_ids=ids, generation_config=config, do_sample=False, max_new_tokens=6)
    assert torch.equal(found, expected)
    content = json.loads((tmp_path / "out" / SERVER_OPTIONS).read_text())
    assert content["logit_bias"] == {"5": 2.0, "9": -1.0, "40": 3.0}
    assert content["texts"]["9"] == tokenizer.decode([9])


def test_a_bias_is_added_to_those_that_the_run_decodes_with(tokenizer, tmp_path):
    ids, _ = zoo.prompts((7, 7))
    model, bias = adapted("llama"), Corrected.of(Steering(), LabelBias(TOKENS, torch.tensor([0.25, -1.0, 0.5])))
    own = GenerationConfig(sequence_bias=[[[9], 1.5], [[11], 0.75]], eos_token_id=1, pad_token_id=1)
    drawn = {"do_sample": False, "max_new_tokens": 6, "output_scores": True, "return_dict_in_generate": True}
    expected = steer_model(model, bias).generate(ids, generation_config=own, **drawn).scores
    save_options(tmp_path / "out", model, bias, tokenizer, generation=own)
    config = GenerationConfig.from_pretrained(tmp_path / "out")
    found = model.generate(ids, generation_config=config, **drawn).scores
    torch.testing.assert_close(torch.stack(found), torch.stack(expected))
    content = json.loads((tmp_path / "out" / SERVER_OPTIONS).read_text())
    assert content["logit_bias"] == {"5": 0.25, "9": 0.5, "11": 0.75, "40": 0.5}


@pytest.mark.parametrize(("alpha", "given"), [(None, None), (0.2, None), (0.2, 1.5)], ids=str)
def test_sharpening_becomes_a_temperature(alpha, given, tokenizer, tmp_path):
    """The distribution that is drawn from: the steered one, and the tuned one with the options."""
    model, steering = adapted("llama"), Steering((Temperature(),), (0.6,), alpha=alpha)
    options = GenerationConfig(do_sample=True, temperature=given)
    save_options(tmp_path / "out", model, steering, tokenizer, generation=options)
    ids, _ = zoo.prompts((7, 7))
    drawn = {
        "top_k": 0,
        "max_new_tokens": 1,
        "output_scores": True,
        "return_dict_in_generate": True,
    }
    before = steer_model(model, steering).generate(ids, generation_config=options, **drawn).scores[0]
    config = GenerationConfig.from_pretrained(tmp_path / "out")
    after = model.generate(input_ids=ids, generation_config=config, **drawn).scores[0]
    torch.testing.assert_close(after.softmax(-1), before.softmax(-1), atol=1e-6, rtol=1e-5)
    assert (after == -torch.inf).any() == (alpha is not None)
    content = json.loads((tmp_path / "out" / SERVER_OPTIONS).read_text())
    assert content["temperature"] == config.temperature == (given or 1.0) / 1.6
    assert content.get("min_p") == config.min_p


def test_greedy_decoding_needs_no_temperature(tokenizer, tmp_path):
    save_options(tmp_path / "out", adapted("llama"), SHARP, tokenizer)
    assert GenerationConfig.from_pretrained(tmp_path / "out").temperature is None
    content = json.loads((tmp_path / "out" / SERVER_OPTIONS).read_text())
    assert content == pytest.approx({"temperature": 0.625, "min_p": 0.2**1.6})


SHARP = Steering((Temperature(),), (0.6,), alpha=0.2)


@pytest.mark.parametrize(
    ("steering", "options", "problem"),
    [
        (Corrected.of(Steering(), HEAD), {}, "CalibratedHead depends on the text; write --form adapter"),
        (Corrected.of(Steering(), AdapterScale(2.0)), {}, "AdapterScale changes the adapter"),
        (Steering((KLGradient(),), (1.0,)), {}, "cannot express KLGradient, which read the base"),
        (SHARP.with_penalty(0.0), {}, "acts on all tokens, and with α = 0.2 and λ = 0 this one does not"),
        (SHARP.with_strengths([-1.5]), {}, "a temperature is above 0, got the strength -1.5"),
        (SHARP, {"top_p": 0.9, "do_sample": True}, "top_p beside it would cut in another order"),
        (
            Corrected.of(Steering(), LabelBias(TOKENS, torch.ones(3))),
            {"sequence_bias": [[[5, 6], 1.0]]},
            r"sequence_bias: expected single tokens beside a label bias, got the sequence \[5, 6\]",
        ),
    ],
    ids=["head", "scale", "rules", "penalty", "strength", "top_p", "sequence"],
)
def test_what_options_cannot_say_is_refused(steering, options, problem, tokenizer, tmp_path):
    with pytest.raises(InputError, match=problem):
        save_options(
            tmp_path / "out", adapted("llama"), steering, tokenizer, generation=GenerationConfig(**options)
        )
    assert not (tmp_path / "out").exists()


def test_a_bias_is_no_adapter(tokenizer, tmp_path):
    with pytest.raises(InputError, match="LabelBias adds the same to a token's logit everywhere"):
        save_corrected(tmp_path / "out", adapted("llama"), LabelBias(TOKENS, torch.ones(3)), tokenizer)


@pytest.mark.parametrize(
    ("model_type", "options", "problem"),
    [
        ("llama", {"use_dora": True}, "LoraConfig with use_dora"),
        ("llama", {"target_modules": ["q_proj", "lm_head"]}, "leaves the head alone"),
        ("gemma2", {}, "changes its head's output"),
    ],
)
def test_what_a_plain_adapter_cannot_hold_is_refused(model_type, options, problem, tokenizer, tmp_path):
    with pytest.raises(InputError, match=problem):
        save_corrected(tmp_path / "out", adapted(model_type, **options), HEAD, tokenizer)
    assert not (tmp_path / "out").exists()


def test_a_scale_that_an_adapter_has_not_is_refused(tokenizer, tmp_path):
    with pytest.raises(InputError, match=r"plain LoRA or IA3.*DoraLinearVariant"):
        save_corrected(tmp_path / "out", adapted("llama", use_dora=True), AdapterScale(2.0), tokenizer)
    assert not (tmp_path / "out").exists()
