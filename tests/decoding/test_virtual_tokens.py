"""Virtual tokens on paired rows."""

import pytest
import torch

from svd_lightning.decoding import steer_model
from svd_lightning.decoding.virtual_tokens import first_real_column, insert_columns
from svd_lightning.errors import InputError
from svd_lightning.steering import Steering
from tests.decoding import zoo

STEERING = Steering(strengths=[1.5])


def test_columns_enter_row_by_row():
    rows = torch.arange(8.0).reshape(2, 4, 1)
    new = -torch.ones(2, 2, 1)
    found = insert_columns(rows, new, torch.tensor([[0], [3]])).squeeze(-1).tolist()
    assert found == [[-1, -1, 0, 1, 2, 3], [4, 5, 6, -1, -1, 7]]


def test_first_real_columns():
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
    assert first_real_column(mask).flatten().tolist() == [2, 0, 4]


@pytest.mark.parametrize("adapter", ["prompt", "prefix"])
def test_no_cache_is_refused(adapter):
    ids, mask = zoo.prompts()
    with pytest.raises(InputError, match="use_cache"):
        steer_model(zoo.tuned_model("llama", adapter), STEERING).generate(
            ids, attention_mask=mask, use_cache=False
        )


def test_embedded_inputs_are_refused():
    model = steer_model(zoo.tuned_model("llama", "prompt"), STEERING)
    with pytest.raises(InputError, match="inputs_embeds"):
        model.generate(inputs_embeds=torch.randn(1, 4, zoo.HIDDEN), max_new_tokens=2)


def test_a_padded_prefix_beyond_the_window_is_refused():
    ids, mask = zoo.prompts()
    with pytest.raises(InputError, match="rows of one length"):
        steer_model(zoo.tuned_model("mistral", "prefix"), STEERING).generate(ids, attention_mask=mask)


def test_padding_longer_than_a_chunk_under_a_window_is_refused():
    ids, mask = zoo.prompts()
    model = steer_model(zoo.tuned_model("mistral", "prompt"), STEERING)
    with pytest.raises(InputError, match="prefill_chunk_size"):
        model.generate(ids, attention_mask=mask, prefill_chunk_size=3)


def test_a_filled_cache_is_not_continued_in_chunks():
    ids, mask = zoo.prompts((6, 6))
    model = steer_model(zoo.tuned_model("llama", "prompt"), STEERING)
    first = model.generate(ids, attention_mask=mask, max_new_tokens=2, return_dict_in_generate=True)
    with pytest.raises(InputError, match="prefill_chunk_size"):
        model.generate(first.sequences, past_key_values=first.past_key_values, prefill_chunk_size=2)


@pytest.mark.parametrize("adapter", ["prompt", "prefix"])
@torch.no_grad()
def test_chosen_logits_are_those_of_the_real_tokens(adapter):
    ids, _ = zoo.prompts((6, 6))
    model = steer_model(zoo.tuned_model("llama", adapter), STEERING)
    whole = model(input_ids=ids).logits
    torch.testing.assert_close(model(input_ids=ids, logits_to_keep=torch.tensor([1, 4])).logits, whole[:, [1, 4]])
