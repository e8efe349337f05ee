import pickle

import pytest
import torch

from svd_lightning.data import Example, PredictionCollator, ScoringCollator, encode

# <pad> 0, <s> 1, </s> 2, a 4, b 5, c 6, d 7
EXAMPLES = [Example("long", "a b", " c d", task="letters"), Example("short", "a", " c")]


@pytest.fixture
def rows(word_tokenizer):
    return encode(EXAMPLES, word_tokenizer, split="train", max_length=16).rows


def test_scoring_batch_by_hand(rows):
    batch = ScoringCollator(pad_token_id=0)(rows)
    assert batch["input_ids"].tolist() == [[1, 4, 5, 6, 7, 2], [1, 4, 6, 2, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, -100, 6, 7, 2], [-100, -100, 6, 2, -100, -100]]
    assert batch["index"].tolist() == [0, 1]
    assert (batch["id"], batch["task"]) == (["long", "short"], ["letters", None])


def test_prediction_batch_by_hand(rows):
    batch = PredictionCollator(pad_token_id=0)(rows)
    assert batch["input_ids"].tolist() == [[1, 4, 5], [0, 1, 4]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 1, 1]]
    assert (batch["index"].tolist(), batch["task"]) == ([0, 1], ["letters", None])
    assert (batch["prompt"], batch["completion"]) == (["a b", "a"], [" c d", " c"])


def test_every_tensor_is_int64(rows):
    batch = ScoringCollator(pad_token_id=0)(rows)
    assert {value.dtype for value in batch.values() if isinstance(value, torch.Tensor)} == {torch.int64}


def test_padding_with_eos_masks_the_padding_and_not_the_eos(rows):
    batch = ScoringCollator(pad_token_id=2)(rows)
    assert batch["input_ids"][1].tolist() == [1, 4, 6, 2, 2, 2]
    assert batch["attention_mask"][1].tolist() == [1, 1, 1, 1, 0, 0]
    assert batch["labels"][1].tolist() == [-100, -100, 6, 2, -100, -100]


def test_lengths_are_rounded_up_on_the_padded_side(rows):
    scoring = ScoringCollator(pad_token_id=0, multiple_of=8)(rows)
    assert scoring["input_ids"][0].tolist() == [1, 4, 5, 6, 7, 2, 0, 0]
    assert scoring["labels"][0].tolist() == [-100, -100, -100, 6, 7, 2, -100, -100]
    prediction = PredictionCollator(pad_token_id=0, multiple_of=4)(rows)
    assert prediction["input_ids"].tolist() == [[0, 1, 4, 5], [0, 0, 1, 4]]


def test_collators_travel_to_worker_processes(rows):
    collator = pickle.loads(pickle.dumps(ScoringCollator(pad_token_id=0)))
    assert collator(rows)["id"] == ["long", "short"]
