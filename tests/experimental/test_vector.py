"""The file of a vector, and the rule that goes along it."""

import pytest
import torch
from safetensors.torch import save_file

from svd_lightning.errors import InputError
from svd_lightning.experimental import ConstantVector, load_vector, save_vector
from svd_lightning.steering import Steering
from tests.chain import diary_model

VOCABULARY = {"a": 0, "b": 1, "c": 2}
VALUES = torch.tensor([0.5, -1.0, 2.0])


@pytest.fixture
def path(tmp_path):
    save_vector(tmp_path / "v.safetensors", VALUES, VOCABULARY, about={"idea": "by hand"})
    return tmp_path / "v.safetensors"


def test_what_is_written_is_read(path):
    values, about = load_vector(path, VOCABULARY)
    assert values.tolist() == VALUES.tolist()
    assert about == {"idea": "by hand"}


def test_another_vocabulary_is_refused(path):
    with pytest.raises(InputError, match=r"v\.safetensors: expected a vector of this tokenizer's vocabulary"):
        load_vector(path, {"a": 0, "c": 1, "b": 2})
    ConstantVector(str(path)).check_vocabulary(VOCABULARY)
    with pytest.raises(InputError, match="of this tokenizer's vocabulary"):
        diary_model(steering=Steering([ConstantVector(str(path))], alpha=None))


def test_a_damaged_file_is_refused(path, tmp_path):
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match="cannot read it as a logit vector"):
        load_vector(path)
    with pytest.raises(InputError, match="cannot read it as a logit vector"):
        ConstantVector(str(tmp_path / "none"))
    save_file({"vector": VALUES}, tmp_path / "other")
    with pytest.raises(InputError, match="expected a logit vector, got another file"):
        load_vector(tmp_path / "other")


def test_a_vector_that_is_not_finite_is_not_written(tmp_path):
    with pytest.raises(InputError, match="vector: expected finite numbers"):
        save_vector(tmp_path / "v", torch.tensor([0.0, torch.nan]), VOCABULARY)
    assert not list(tmp_path.iterdir())


def test_a_mask_is_refused(path):
    with pytest.raises(
        InputError, match=r"steering\.alpha: expected null, got 0\.1: a rule with a number for each"
    ):
        Steering([ConstantVector(str(path))])


def test_the_rule_adds_the_vector_everywhere(path):
    logits = torch.randn(2, 4, 3)
    steered = Steering([ConstantVector(str(path))], strengths=[0.5], alpha=None)(logits, logits)
    torch.testing.assert_close(steered, logits + 0.5 * VALUES)
    with pytest.raises(InputError, match="holds 3 logits and was asked for 4"):
        Steering([ConstantVector(str(path))], strengths=[1.0], alpha=None)(torch.zeros(4), torch.zeros(4))
