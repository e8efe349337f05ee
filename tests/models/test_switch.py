"""Adapters left out and put back, and those that cannot be."""

import pytest
import torch
from peft import get_peft_model

from svd_lightning.errors import InputError
from svd_lightning.models.switch import adapter_off, check_adapter
from tests.decoding import zoo
from tests.models.test_hidden import own_logits


def test_adapter_returns_after_an_exception():
    model = zoo.tuned_model()
    ids = zoo.prompts((5,))[0][0]
    before = own_logits(model, ids)
    grads = [p.requires_grad for p in model.parameters()]
    with pytest.raises(RuntimeError), adapter_off(model):
        raise RuntimeError
    assert torch.equal(own_logits(model, ids), before)
    assert grads == [p.requires_grad for p in model.parameters()]


def _several_adapters():
    model = zoo.tuned_model()
    model.add_adapter("second", zoo.lora("llama"))
    model.base_model.set_adapter(["default", "second"])
    return model.eval()


def _merged():
    model = zoo.tuned_model()
    model.merge_adapter()
    return model


def _switched_off():
    model = zoo.tuned_model()
    model.base_model.disable_adapter_layers()
    return model


REFUSED = {
    "switched off": _switched_off,
    "training mode": lambda: zoo.tuned_model().train(),
    "one active adapter": _several_adapters,
    "bias": lambda: get_peft_model(zoo.base_model("gpt2"), zoo.lora("gpt2", bias="all")).eval(),
    "merged": _merged,
    "rewrites the base": lambda: get_peft_model(
        zoo.base_model("llama"), zoo.lora("llama", init_lora_weights="pissa")
    ).eval(),
    "PeftModel": lambda: zoo.base_model("llama"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_models_without_a_recoverable_base_are_refused(message):
    with pytest.raises(InputError, match=message):
        check_adapter(REFUSED[message]())
