"""A table of positions ends; what would outgrow it is refused where plain transformers fails, and only there."""

import pytest

from svd_lightning.decoding import steer_model
from svd_lightning.errors import InputError
from svd_lightning.models.positions import position_rows
from tests.decoding import architectures, zoo
from tests.decoding.reference import STEERING

PROMPT = 250


def write(model, new_tokens, prompt=PROMPT):
    ids, mask = zoo.prompts((prompt, prompt - 5))
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


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*architectures.NAMES} - {"rwkv", "xlnet", "xlm", "reformer", "mpt"}))
def test_every_architecture_goes_to_its_end_and_no_further(name):
    """Of 64 positions; MPT has no table, and fails where its ALiBi ends."""
    tuned = architectures.tuned_model(name)
    steered, rows = steer_model(tuned, STEERING), position_rows(tuned.get_base_model())
    assert write(steered, 5 if rows else 9, 60).shape[1] == (65 if rows else 69)
    if rows:
        assert rows == 64
        with pytest.raises((IndexError, RuntimeError)):
            write(tuned, 6, 60)
        with pytest.raises(InputError, match="64 positions"):
            write(steered, 6, 60)
