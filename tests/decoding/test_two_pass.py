"""The pair of caches that generate() sees as one."""

import pytest
import torch
from transformers import DynamicCache

from svd_lightning.decoding.two_pass import PairCache, pair_cache
from svd_lightning.errors import InputError


def filled(value):
    cache = DynamicCache()
    cache.update(torch.full((2, 1, 3, 4), value), torch.full((2, 1, 3, 4), value), 0)
    cache.layers[0].keys[1] += 1
    return cache


def test_both_caches_follow():
    pair = PairCache(filled(1.0), filled(5.0))
    pair.reorder_cache(torch.tensor([1, 1]))
    assert [cache.layers[0].keys[:, 0, 0, 0].tolist() for cache in (pair.tuned, pair.base)] == [[2, 2], [6, 6]]
    pair.crop(-1)
    assert pair.tuned.get_seq_length() == pair.base.get_seq_length() == pair.get_seq_length() == 2
    pair.batch_repeat_interleave(2)
    assert pair.base.layers[0].keys.shape[0] == pair.tuned.layers[0].keys.shape[0] == 4
    assert not pair.is_compileable


def test_an_empty_cache_becomes_two():
    pair = pair_cache(DynamicCache())
    assert pair.tuned is not pair.base
    assert pair_cache(pair) is pair


def test_a_filled_cache_holds_one_distribution_only():
    with pytest.raises(InputError, match="past_key_values"):
        pair_cache(filled(1.0))
