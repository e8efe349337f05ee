"""A table of positions ends; what would outgrow it is refused where plain transformers fails, and only there."""

import pytest

from svd_lightning.decoding import steer_model
from svd_lightning.errors import InputError
from tests.decoding import zoo
from tests.decoding.reference import STEERING

PROMPT = 250


def write(model, new_tokens):
    ids, mask = zoo.prompts((PROMPT, PROMPT - 5))
    options = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False}
    return model.generate(input_ids=ids, attention_mask=mask, **options)


@pytest.mark.parametrize(("model_type", "adapter"), [("gpt2", "lora"), ("gpt2", "prompt"), ("opt", "dora")])
def test_a_table_of_positions_is_used_to_its_end(model_type, adapter):
    tuned = zoo.tuned_model(model_type, adapter)
    most = 256 + 1 - PROMPT - (zoo.VIRTUAL if adapter == "prompt" else 0)
    for model in (tuned, steer_model(tuned, STEERING)):
        assert write(model, most).shape[1] == PROMPT + most
    with pytest.raises(IndexError):
        write(tuned, most + 1)
    with pytest.raises(InputError, match=f"max_new_tokens: expected at most {most}, got {most + 1}: .* 256 pos"):
        write(steer_model(tuned, STEERING), most + 1)


def test_computed_positions_go_on():
    assert write(steer_model(zoo.tuned_model("llama", "lora"), STEERING), 12).shape[1] == PROMPT + 12
