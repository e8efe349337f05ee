"""A base is known again by a sample of its weights, whatever adapter stands in it and in whatever format."""

import copy

import pytest
import torch

from svd_lightning.models import values_digest
from tests.decoding import zoo

BASE = zoo.base_model("llama")


@pytest.mark.parametrize("adapter", zoo.ADAPTERS)
def test_an_adapter_does_not_count(adapter):
    tuned = zoo.tuned_model("llama", adapter)
    assert values_digest(tuned.get_base_model()) == values_digest(BASE)


def test_the_format_does_not_count_where_it_can_be_told():
    assert values_digest(copy.deepcopy(BASE).bfloat16()) == values_digest(BASE)
    assert values_digest(copy.deepcopy(BASE).half()) is None


def test_one_changed_tensor_is_another_base():
    other = copy.deepcopy(BASE)
    with torch.no_grad():
        other.model.layers[-1].mlp.up_proj.weight.mul_(1.02)
    assert values_digest(other) != values_digest(BASE)
