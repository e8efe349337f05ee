"""The adapter at another scale against weights that were rewritten: B times s, or 1 + s·(l − 1)."""

import copy

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from peft.tuners.ia3.layer import IA3Layer
from peft.tuners.lora.layer import LoraLayer

from svd_lightning.errors import InputError
from svd_lightning.models.scale import scaled, unscalable
from svd_lightning.models.switch import adapter_off
from tests.decoding import zoo

QV, TASK = {"target_modules": ["q_proj", "v_proj"]}, {"task_type": "CAUSAL_LM"}
SCALABLE = {
    "LoRA": LoraConfig(r=4, **QV, **TASK),
    "rsLoRA of several ranks": LoraConfig(
        r=4, use_rslora=True, rank_pattern={"q_proj": 2}, alpha_pattern={"q_proj": 3}, **QV, **TASK
    ),
    "LoRA with a bias": LoraConfig(r=4, lora_bias=True, **QV, **TASK),
    "LoRA on embeddings and head": LoraConfig(r=4, target_modules=["embed_tokens", "v_proj", "lm_head"], **TASK),
    "LoRA on a parameter": LoraConfig(r=4, target_modules=[], target_parameters=["q_proj.weight"], **TASK),
    "IA3": IA3Config(target_modules=["v_proj", "down_proj"], feedforward_modules=["down_proj"], **TASK),
}
REFUSED = {
    "dora": "DoraLinearVariant",
    "lora_saved_head": "ModulesToSaveWrapper",
    "loha": "LoHaConfig",
    "prompt": "PromptTuningConfig",
}


def adapted(family):
    return zoo.randomise(get_peft_model(zoo.base_model("llama"), copy.deepcopy(SCALABLE[family])))


def rewritten(model, scale):
    """The same model with other weights."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name or "lora_embedding_B" in name:  # weights, and biases where there are some
                weight *= scale
            elif "ia3_l" in name:
                weight.copy_(1 + scale * (weight - 1))
    return model


def logits(model):
    ids, mask = zoo.prompts((7, 7))
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask).logits


@pytest.mark.parametrize("family", SCALABLE)
def test_a_scale_is_that_of_the_rewritten_weights(family):
    model = adapted(family)
    before = logits(model)
    for scale in (2.0, 0.8, 1.25**3):
        with scaled(model, scale):
            found = logits(model)
        torch.testing.assert_close(found, logits(rewritten(model, scale)), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(found, before, atol=1e-2)
        assert torch.equal(logits(model), before)
    with scaled(model, 0.0):
        nothing = logits(model)
    with adapter_off(model):
        torch.testing.assert_close(nothing, logits(model), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("family", ["LoRA", "IA3"])
def test_an_error_leaves_everything_as_it_was(family):
    """Also a scaling that is not the configuration's, which PEFT's own `unscale_layer` would forget."""
    model = adapted(family)
    layers = [one for one in model.modules() if isinstance(one, LoraLayer | IA3Layer)]
    for one in layers:
        if isinstance(one, LoraLayer):
            one.scaling["default"] = 0.1
    before, state, expected = logits(model), copy.deepcopy(model.state_dict()), logits(rewritten(model, 3.0 * 0.7))
    found = []

    def fails():
        with scaled(model, 0.7), scaled(model, 3.0):
            found.append(logits(model))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(logits(model), before)
    assert all(torch.equal(weight, state[name]) for name, weight in model.state_dict().items())
    for one in layers:
        assert "ia3_l" not in vars(one)
        assert not isinstance(one, LoraLayer) or one.scaling == {"default": 0.1}


def test_only_the_active_adapter_is_scaled():
    model = adapted("LoRA")
    model.add_adapter("other", copy.deepcopy(SCALABLE["LoRA"]))
    [first, *_] = [one for one in model.modules() if isinstance(one, LoraLayer)]
    before = dict(first.scaling)
    with scaled(model, 2.0):
        assert first.scaling == {"default": 2 * before["default"], "other": before["other"]}


@pytest.mark.parametrize("adapter", REFUSED)
def test_an_adapter_that_changes_more_is_refused(adapter):
    model = zoo.tuned_model("llama", adapter)
    assert REFUSED[adapter] in unscalable(model)
    with pytest.raises(InputError, match=rf"plain LoRA or IA3.*{REFUSED[adapter]}"), scaled(model, 2.0):
        pass
