"""A correction as files for other programs: what plain PEFT and transformers make of them."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, GenerationConfig

from svd_lightning.artifact.corrected import LOGIT_BIAS, save_corrected
from svd_lightning.decoding import steer_model
from svd_lightning.errors import InputError
from svd_lightning.steering import AdapterScale, CalibratedHead, Corrected, LabelBias, Steering
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


def test_a_label_bias_becomes_options_of_generate(tokenizer, tmp_path):
    ids, _ = zoo.prompts((7, 7))
    model, bias = adapted("llama"), LabelBias(TOKENS, torch.tensor([2.0, -1.0, 3.0]))
    _, expected = outputs(steer_model(model, Corrected.of(Steering(), bias)), ids)
    save_corrected(tmp_path / "out", model, bias, tokenizer)
    config = GenerationConfig.from_pretrained(tmp_path / "out")
    found = model.generate(input_ids=ids, generation_config=config, do_sample=False, max_new_tokens=6)
    assert torch.equal(found, expected)
    content = json.loads((tmp_path / "out" / LOGIT_BIAS).read_text())
    assert content["logit_bias"] == {"5": 2.0, "9": -1.0, "40": 3.0}
    assert content["texts"]["9"] == tokenizer.decode([9])


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
