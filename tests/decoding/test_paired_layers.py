"""Paired layers: the first half is the adapter's own forward, the second the base layer's, bit for bit."""

import pytest
import torch
from torch import nn

from svd_lightning.decoding.paired_layers import installed, paired_forward
from svd_lightning.models.switch import adapter_layers, layers_off
from tests.decoding import zoo

CASES = [("llama", a) for a in ("lora", "rslora", "lora_saved_head", "ia3")] + [("gpt2", "lora"), ("gpt2", "ia3")]


@pytest.mark.parametrize(("model_type", "adapter"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("flat", [False, True])
@torch.no_grad()
def test_halves_are_the_layers_own_forwards(model_type, adapter, dtype, flat):
    model = zoo.tuned_model(model_type, adapter)
    for layer in adapter_layers(model):
        base = getattr(layer, "base_layer", None) or layer.original_module
        base.to(dtype)
        if adapter == "lora_saved_head" and hasattr(layer, "modules_to_save"):
            layer.modules_to_save.to(dtype)
        features = base.weight.shape[0 if model_type == "gpt2" else 1]
        rows = torch.randn((6, features) if flat else (6, 4, features)).to(dtype)
        paired = torch.cat([rows, rows])
        with layers_off([layer]):
            base_rows = layer(paired)[6:]
        expected = torch.cat([layer(paired)[:6], base_rows])
        assert torch.equal(paired_forward(layer)(paired), expected)


@torch.no_grad()
def test_a_lora_bias_belongs_to_the_first_half():
    model = zoo.randomise(zoo.get_peft_model(zoo.base_model("llama"), zoo.lora("llama", lora_bias=True)))
    layer = adapter_layers(model)[0]
    rows = torch.randn(2, 3, zoo.HIDDEN)
    found = paired_forward(layer)(torch.cat([rows, rows]))
    torch.testing.assert_close(found, torch.cat([layer(rows), layer.base_layer(rows)]))


@pytest.mark.parametrize("adapter", zoo.TWO_PASS)
def test_other_layers_have_none(adapter):
    assert all(paired_forward(layer) is None for layer in adapter_layers(zoo.tuned_model("llama", adapter)))


def test_installed_restores_what_was_there():
    layer, bound = nn.Linear(2, 2), nn.Linear(2, 2)
    bound.forward = original = bound.forward

    def forward(x):
        return x

    def fail():
        with installed([(layer, forward), (bound, forward)]):
            assert layer.forward is forward
            assert bound.forward is forward
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert "forward" not in layer.__dict__
    assert bound.__dict__["forward"] is original
