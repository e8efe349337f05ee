"""The model card's metadata, as the hub reads it."""

import pytest
import yaml

from svd_lightning.artifact.card import model_card
from svd_lightning.steering import Entropy, KLGradient, Steering, TaskSteering, tasks_as_plain

STEERING = tasks_as_plain(TaskSteering(Steering([KLGradient()], [31.64, 0.5], features=[Entropy()])))


def card(name, revision=None):
    base = {"name": name, "revision": revision, "fingerprint": "0", "dtype": "torch.float32"}
    return model_card({**STEERING, "base": base, "versions": {}}, None)


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-1.5B", "gpt2"])
def test_a_base_of_the_hub_is_linked(name):
    _, front, text = card(name).split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["base_model"] == name
    assert metadata["base_model_relation"] == "adapter"
    assert f"from_pretrained({name!r})" in text


@pytest.mark.parametrize("name", ["/home/me/models/base", "models/deep/base", None])
def test_a_folder_is_not(name):
    assert "base_model" not in yaml.safe_load(card(name).split("---\n", 2)[1])


def test_it_names_revision_and_recipe():
    text = card("gpt2", revision="abc")
    assert "from_pretrained('gpt2', revision='abc')" in text
    assert "| depends on | Entropy |" in text
    assert "| strength μ | 31.6, 0.5 |" in text
    assert "given by hand" in text
