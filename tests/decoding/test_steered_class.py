"""Which path an adapter takes, and which are refused."""

import logging

import pytest
import torch
from peft import (
    CPTConfig,
    LNTuningConfig,
    LoraConfig,
    MultitaskPromptTuningConfig,
    VeraConfig,
    get_peft_model,
)

from svd_lightning.decoding import model as decoding_model
from svd_lightning.decoding import steer_model
from svd_lightning.decoding.model import steered_class
from svd_lightning.decoding.one_pass import OnePassModel
from svd_lightning.decoding.two_pass import TwoPassModel
from svd_lightning.errors import InputError
from svd_lightning.steering import Steering
from tests.decoding import zoo
from tests.decoding.reference import ReferenceModel

STEERING = Steering(strengths=[1.5], penalty=-4.0)

TWO_PASSES = {
    "embedding": LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "embed_tokens"]),
    "trainable tokens": LoraConfig(
        task_type="CAUSAL_LM", target_modules=["q_proj"], trainable_token_indices=[5, 7]
    ),
    "saved block": LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], modules_to_save=["mlp"]),
    "parameters": LoraConfig(task_type="CAUSAL_LM", target_modules=[], target_parameters=["q_proj.weight"]),
    "layer norms": LNTuningConfig(task_type="CAUSAL_LM", target_modules=["input_layernorm", "norm"]),
    "vera": VeraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], r=8),
}


def tuned(config, model_type="llama"):
    return zoo.randomise(get_peft_model(zoo.base_model(model_type), config))


@pytest.mark.parametrize("kind", TWO_PASSES)
def test_layers_without_a_paired_forward_take_two_passes(kind, monkeypatch):
    monkeypatch.setitem(zoo.ADAPTERS, kind, lambda model_type: TWO_PASSES[kind])
    model = zoo.tuned_model("llama", kind)
    assert steered_class(model).model_class is TwoPassModel
    ids, mask = zoo.prompts()
    options = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 5, "num_beams": 3, "do_sample": False}
    found = steer_model(model, STEERING).generate(**options)
    assert torch.equal(found, ReferenceModel("llama", kind, STEERING).generate(**options, use_cache=False))


def test_a_saved_leaf_takes_one_pass():
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], modules_to_save=["norm", "embed_tokens"])
    assert steered_class(tuned(config)).model_class is OnePassModel


def test_experts_take_two_passes():
    model = zoo.tuned_model("llama", "lora")
    layer = model.get_base_model().model.layers[0]
    layer.experts = torch.nn.ModuleList([layer._modules.pop("mlp")])
    assert steered_class(model).model_class is TwoPassModel


def test_two_passes_are_reported_once(caplog):
    decoding_model._report_two_passes.cache_clear()
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            steered_class(zoo.tuned_model("llama", "loha"))
    assert len([r for r in caplog.records if "two passes" in r.message]) == 1
    assert "peft.tuners.loha.layer.Linear" in caplog.text


REFUSED = {
    "alora_invocation_tokens": LoraConfig(
        task_type="CAUSAL_LM", target_modules=["q_proj"], alora_invocation_tokens=[5]
    ),
    "MultitaskPromptTuningConfig": MultitaskPromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=4, num_tasks=2, num_ranks=2
    ),
    "CPTConfig": CPTConfig(
        task_type="CAUSAL_LM", cpt_token_ids=[3, 4], cpt_mask=[1, 1], cpt_tokens_type_mask=[1, 2]
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_steered_decoding_does_not_follow_is_refused(message):
    with pytest.raises(InputError, match=message):
        steer_model(tuned(REFUSED[message]), STEERING)
