"""Number formats: heads and residual streams of float32, float32 on narrow weights, and what is never narrowed."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from svd_lightning.models import (
    arithmetic_of,
    check_arithmetic,
    in_float32,
    narrowing,
    use_arithmetic,
    widen_head,
    widen_residual,
)
from svd_lightning.models.arithmetic import WideHead
from tests.decoding import zoo


def narrow(model_type, adapter="lora"):
    """A PEFT model on a base of bfloat16."""
    model = zoo.tuned_model(model_type, adapter)
    base = model.get_base_model()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad or "lora" in name}
    for name, parameter in model.named_parameters():
        if name not in trained:
            parameter.data = parameter.data.to(torch.bfloat16)
    return model, base


def states_and_logits(model):
    """The final hidden states and the logits of one row."""
    ids, mask = zoo.prompts((9,))
    outputs = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
    return outputs.hidden_states[-1], outputs.logits


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "bloom", "cohere"])
@torch.no_grad()
def test_the_head_multiplies_in_float32_under_autocast_too(model_type):
    model = zoo.base_model(model_type).to(torch.bfloat16)
    tied = model.get_input_embeddings().weight
    narrow_weight = model.get_output_embeddings().weight
    states, before = states_and_logits(model)
    for _ in range(2):
        widen_head(model)
    head = model.get_output_embeddings()
    assert type(head) is WideHead
    assert torch.equal(head.weight, narrow_weight.float())
    assert model.get_input_embeddings().weight is tied, "embeddings keep their format"
    assert tied.dtype == torch.bfloat16
    assert torch.equal(head(states), F.linear(states.float(), narrow_weight.float()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head(states).dtype == torch.float32
    logits = states_and_logits(model)[1]
    assert logits.dtype == torch.float32
    assert 0 < (logits - before.float()).abs().max() < 0.1


def test_a_trained_head_stays_the_parameter_that_its_optimizer_holds():
    model = zoo.base_model("llama").to(torch.bfloat16)
    weight = model.get_output_embeddings().weight.requires_grad_(True)
    widen_head(model)
    assert model.get_output_embeddings().weight is weight
    ids, _ = zoo.prompts((9,))
    model(ids).logits.sum().backward()
    assert weight.grad.abs().sum() > 0


@pytest.mark.parametrize("adapter", ["lora", "ia3", "prompt", "prefix"])
@pytest.mark.parametrize("model_type", list(zoo.ARCHITECTURES))
@torch.no_grad()
def test_float32_on_narrow_weights_is_the_same_model_in_float32(model_type, adapter):
    model, base = narrow(model_type, adapter)
    ids, mask = zoo.prompts((9,))
    with in_float32(base):
        found = model(input_ids=ids, attention_mask=mask).logits
    before = model(input_ids=ids, attention_mask=mask).logits
    assert before.dtype == torch.bfloat16, "and outside the context as it was"
    expected = copy.deepcopy(model).float()(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
    assert (before - expected).abs().max() > 1e-3


@pytest.mark.parametrize("model_type", ["llama", "gemma3"])
@torch.no_grad()
def test_a_wide_residual_stream(model_type):
    """It is the decoder under autocast from float32 embeddings on, in the model and in copies of it."""
    model, base = narrow(model_type)
    ids, mask = zoo.prompts((9,))
    embeddings = base.get_input_embeddings()(ids).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = base.get_decoder()(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state
    exact = states_and_logits(copy.deepcopy(model).float())[1]
    for _ in range(2):
        widen_residual(base, torch.bfloat16)
    states, logits = states_and_logits(model)
    assert states.dtype == torch.float32
    assert torch.equal(states, expected)
    with in_float32(base):
        torch.testing.assert_close(states_and_logits(model)[1], exact, atol=2e-5, rtol=1e-5)
    assert torch.equal(states_and_logits(model)[1], logits), "as it was"
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        parameter.zero_()
    assert not states_and_logits(other)[1].any(), "a copy runs its own weights"


@pytest.mark.parametrize("model_type", list(zoo.ARCHITECTURES))
@torch.no_grad()
def test_a_wide_residual_stream_decodes(model_type):
    model, base = narrow(model_type)
    widen_head(base)
    widen_residual(base, torch.bfloat16)
    ids, mask = zoo.prompts()
    outputs = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=3, do_sample=False)
    assert outputs.shape == (len(ids), ids.shape[1] + 3)


def test_a_record_of_the_formats():
    model = zoo.base_model("llama").to(torch.bfloat16)
    plain = arithmetic_of(model)
    assert plain == dict.fromkeys(("weights", "products", "residual", "head"), "bfloat16")
    widen_head(model)
    assert arithmetic_of(model) == plain | {"head": "float32"}
    widen_residual(model, torch.bfloat16)
    assert arithmetic_of(model) == plain | {"head": "float32", "residual": "float32"}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = arithmetic_of(zoo.base_model("llama"))
    assert mixed == {"weights": "float32", "products": "bfloat16", "residual": "float32", "head": "bfloat16"}


def test_what_is_never_narrowed():
    """Trained weights with their gradients, buffers, and the format of a head; tied embeddings are."""
    model = zoo.tuned_model("llama", "lora")
    base = model.get_base_model()
    base.lm_head.weight.data *= 1 + 1e-4  # values that bfloat16 has not
    trained = nn.Parameter(torch.full((3,), 1 + 1e-4))
    trained.grad = torch.ones(3)
    model.extra = nn.ParameterList([trained])
    widen_head(base)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    rounded = base.lm_head.weight.to(torch.bfloat16).float()
    model._apply(narrowing(model, lambda tensor: tensor.bfloat16() if tensor.is_floating_point() else tensor))
    assert base.dtype == base.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    assert torch.equal(trained, torch.full((3,), 1 + 1e-4))
    assert trained.grad.dtype == torch.float32
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    assert torch.equal(base.lm_head.weight, rounded)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_recorded_arithmetic_comes_back(weights, wide, caplog):
    first = zoo.base_model("llama")
    for parameter in first.parameters():
        parameter.data = parameter.data.to(weights)
    widen_head(first)
    if wide:
        widen_residual(first, torch.bfloat16)
    record = arithmetic_of(first)
    second = zoo.base_model("llama").requires_grad_(False)
    check_arithmetic(arithmetic_of(second), record)
    use_arithmetic(second, record)
    assert arithmetic_of(second) == record
    assert torch.equal(states_and_logits(second)[1], states_and_logits(first)[1])
    warned = caplog.text
    check_arithmetic(arithmetic_of(second), record)
    check_arithmetic(arithmetic_of(second), None)
    assert caplog.text == warned
    if weights == torch.bfloat16:
        assert "calibrated with weights bfloat16" in warned
        assert "decodes with weights float32" in warned
