"""The model card's metadata, as the hub reads it."""

import pytest
import yaml

from svd_lightning.artifact.card import model_card
from svd_lightning.artifact.content import with_intervals
from svd_lightning.steering import Entropy, KLGradient, Steering, TaskSteering, tasks_as_plain

OF_A_TASK = Steering([KLGradient()], [2.0])
STEERING = tasks_as_plain(
    TaskSteering(Steering([KLGradient()], [31.64, 0.5], features=[Entropy()]), {"boolq": OF_A_TASK})
)
FOUND = {"used": {"strengths": [31.64, 0.5], "intervals": [[30.0, 33.28], [-0.1, 1.1]]}}
FOUND["tasks"] = [{"task": "boolq", "used": {"strengths": [2.0], "intervals": [[1.5, 2.5]]}}]


def card(name, revision=None, *, record=None):
    base = {"name": name, "revision": revision, "fingerprint": "0", "dtype": "torch.float32"}
    arithmetic = {"weights": "bfloat16", "products": "bfloat16", "residual": "float32", "head": "float32"}
    content = {**with_intervals(STEERING, record), "base": base, "arithmetic": arithmetic, "versions": {}}
    return model_card(content, None)


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-1.5B", "gpt2"])
def test_a_base_of_the_hub_is_linked(name):
    _, front, text = card(name).split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["base_model"] == name
    assert metadata["base_model_relation"] == "adapter"
    assert f"from_pretrained({name!r}, dtype='bfloat16')" in text


@pytest.mark.parametrize("name", ["/home/me/models/base", "models/deep/base", None])
def test_a_folder_is_not(name):
    assert "base_model" not in yaml.safe_load(card(name).split("---\n", 2)[1])


def test_it_names_revision_and_recipe():
    text = card("gpt2", revision="abc")
    assert "from_pretrained('gpt2', revision='abc', dtype='bfloat16')" in text
    assert "| calibrated in | weights bfloat16, products bfloat16, residual stream float32 |" in text
    assert "| depends on | Entropy |" in text
    assert "| strength μ | 31.6, 0.5 |" in text
    assert "given by hand" in text
    assert "its 95 % interval" not in text


def test_strengths_have_the_intervals_of_their_calibration():
    text = card("gpt2", record=FOUND)
    assert "| its 95 % interval | [30, 33.3], [-0.1, 1.1] |" in text
    assert "| boolq | KLGradient | 2 | [1.5, 2.5] |" in text


def test_strengths_that_the_calibration_does_not_know_have_none():
    given = tasks_as_plain(TaskSteering(OF_A_TASK, {"arc": OF_A_TASK}))
    for record in (None, FOUND, {"used": {"strengths": [2.0]}}):  # the last is older than intervals
        content = with_intervals(given, record)
        assert content["steering"] == {**given["steering"], "intervals": None}
        assert content["tasks"]["arc"]["intervals"] is None
    known = with_intervals(STEERING, FOUND)
    assert known["steering"]["intervals"] == FOUND["used"]["intervals"]
    assert known["tasks"]["boolq"]["intervals"] == [[1.5, 2.5]]
