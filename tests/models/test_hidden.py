"""Hidden states and heads against the models' own logits, row by row, unpadded."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from svd_lightning.models.hidden import (
    base_head,
    base_hidden_states,
    tuned_head,
    tuned_hidden_states,
)
from svd_lightning.models.switch import adapter_layers
from tests.decoding import zoo

ALL_TYPES = [*zoo.ARCHITECTURES, *zoo.MORE_HEADS]
CASES = [(m, a) for m in ("llama", "gemma3") for a in zoo.ADAPTERS] + [
    (m, a) for m in ALL_TYPES for a in ("lora_head", "ia3", "prompt", "prefix") if m not in ("llama", "gemma3")
]


def own_logits(model, ids):
    """The model's own logits of one unpadded row, virtual tokens dropped: [T, V]."""
    return model(input_ids=ids[None], attention_mask=torch.ones_like(ids[None])).logits[0, -len(ids) :]


@pytest.mark.parametrize(("model_type", "adapter"), CASES)
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_head_of_hidden_states_is_the_model(model_type, adapter, side):
    model = zoo.tuned_model(model_type, adapter)
    ids, mask = zoo.prompts()
    if side == "right":
        ids, mask = ids.flip(1), mask.flip(1)
    tuned, base = tuned_hidden_states(model, ids, mask), base_hidden_states(model, ids, mask)
    bare = zoo.base_model(model_type)
    for row in range(len(ids)):
        keep = mask[row].bool()
        torch.testing.assert_close(
            tuned_head(model)(tuned[row, keep]), own_logits(model, ids[row, keep]), atol=1e-5, rtol=1e-5
        )
        expected = own_logits(bare, ids[row, keep])
        torch.testing.assert_close(base_head(model)(base[row, keep]), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("saved", ["norm", "lm_head"])
@torch.no_grad()
def test_saved_modules_belong_to_the_tuned_model_only(saved):
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], modules_to_save=[saved])
    model = zoo.randomise(get_peft_model(zoo.base_model("llama"), config))
    ids, mask = zoo.prompts((5,))
    tuned = tuned_head(model)(tuned_hidden_states(model, ids, mask)[0])
    base = base_head(model)(base_hidden_states(model, ids, mask)[0])
    torch.testing.assert_close(tuned, own_logits(model, ids[0]))
    torch.testing.assert_close(base, own_logits(zoo.base_model("llama"), ids[0]))
    assert (tuned - base).abs().max() > 0.1


@pytest.mark.parametrize(("adapter", "switched"), [("lora", 0), ("lora_head", 1), ("lora_saved_head", 1)])
@torch.no_grad()
def test_the_base_head_switches_off_what_is_in_the_head_alone(adapter, switched):
    model, off = zoo.tuned_model("llama", adapter), []
    layers = adapter_layers(model)
    model.get_base_model().get_output_embeddings().register_forward_hook(
        lambda *_: off.append(sum(layer.disable_adapters for layer in layers))
    )
    head = base_head(model)
    assert torch.equal(head(torch.ones(1, zoo.HIDDEN)), head(torch.ones(1, zoo.HIDDEN)))
    assert off == [switched, switched]
    assert not any(layer.disable_adapters for layer in layers)


def test_gradients_reach_the_adapter():
    model = zoo.tuned_model()
    ids, mask = zoo.prompts()
    tuned_head(model)(tuned_hidden_states(model, ids, mask)[0]).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_nothing_is_left_behind():
    model = zoo.tuned_model()
    names, hooks = list(model.state_dict()), [len(m._forward_hooks) for m in model.modules()]
    ids, mask = zoo.prompts()
    tuned_head(model)(tuned_hidden_states(model, ids, mask)[0])
    assert names == list(model.state_dict())
    assert hooks == [len(m._forward_hooks) for m in model.modules()]
