from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data.distributed import DistributedSampler

from svd_lightning.data import Example, LengthGroupedSampler, ScoringCollator, encode
from svd_lightning.data.sampler import EvenShare, batched_by_length, padded_to_ranks

LENGTHS = [(37 * i) % 101 + 1 for i in range(203)]


def order(*, epoch=0, **options):
    sampler = LengthGroupedSampler(LENGTHS, **{"batch_size": 8, **options})
    sampler.set_epoch(epoch)
    return list(sampler)


def batches(rows, size=8):
    return [rows[i : i + size] for i in range(0, len(rows), size)]


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=80), st.integers(1, 9), st.integers(0, 99), st.integers(0, 9)
)
def test_an_epoch_is_a_permutation(lengths, batch_size, seed, epoch):
    sampler = LengthGroupedSampler(lengths, batch_size=batch_size, seed=seed, window=3)
    sampler.set_epoch(epoch)
    assert sorted(sampler) == list(range(len(lengths))) == list(range(len(sampler)))


@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 7))
def test_the_batches_of_all_ranks_are_those_of_one_process(count, replicas, batch_size):
    shares = [
        list(LengthGroupedSampler(range(count), batch_size=batch_size, num_replicas=replicas, rank=rank))
        for rank in range(replicas)
    ]
    assert len({len(share) for share in shares}) == 1
    whole = [row for step in zip(*shares, strict=True) for row in step]
    assert whole[:count] == list(LengthGroupedSampler(range(count), batch_size=batch_size * replicas))
    assert whole[count:] == list(range(count, -(-count // replicas) * replicas))  # only to even the shares


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 7))
def test_batches_hold_rows_of_similar_length(lengths, size):
    rows = [range(length) for length in lengths]
    found = batches([len(row) for row in batched_by_length(rows, size)], size)
    assert sorted(map(sorted, found)) == sorted(batches(sorted(lengths), size))
    assert batched_by_length(rows, 1) == rows


def test_rows_without_a_label_even_the_shares(word_tokenizer):
    rows = encode([Example(str(i), "a", " b") for i in range(5)], word_tokenizer, split="train", max_length=9)
    assert [row.index for row in padded_to_ranks(rows.rows, 3)] == [0, 1, 2, 3, 4, -1]
    assert padded_to_ranks(rows.rows, 5) == rows.rows


def test_an_epoch_always_has_the_same_order_and_no_other_epoch_has_it():
    assert order(epoch=3) == order(epoch=3)
    assert order(epoch=3) != order(epoch=4)
    assert order(seed=1) != order(seed=2)


def test_the_order_owes_nothing_to_the_global_random_state():
    import torch

    torch.manual_seed(1)
    first = order()
    torch.manual_seed(2)
    assert order() == first


def test_batches_hold_similar_lengths():
    waste = sum(
        max(LENGTHS[i] for i in batch) * len(batch) - sum(LENGTHS[i] for i in batch) for batch in batches(order())
    )
    assert waste < 0.1 * sum(LENGTHS)  # shuffled row by row it is 0.7


def test_ranks_work_on_similar_lengths_at_the_same_step():
    shares = [order(num_replicas=2, rank=rank) for rank in (0, 1)]
    full = len(LENGTHS) // 16
    for ours, theirs in list(zip(*map(batches, shares), strict=True))[:full]:
        both = [LENGTHS[i] for i in ours + theirs]
        assert max(both) - min(both) < 25


def test_the_batch_with_the_longest_row_comes_first_and_the_others_in_no_order_of_length():
    rows = batches(order())
    assert max(LENGTHS[i] for i in rows[0]) == max(LENGTHS[i] for batch in rows[:-1] for i in batch)
    longest = [max(LENGTHS[i] for i in batch) for batch in rows[1:-1]]
    assert longest not in (sorted(longest), sorted(longest, reverse=True))


def test_lightning_leaves_it_as_it_is():
    assert isinstance(LengthGroupedSampler([1], batch_size=1), DistributedSampler)


def test_even_shares_cover_each_row_once(word_tokenizer):
    rows = encode(
        [Example(str(i), "a", " b") for i in range(5)], word_tokenizer, split="calibration", max_length=9
    )
    shares = [EvenShare(rows.rows, num_replicas=3, rank=rank) for rank in range(3)]
    assert [len(share) for share in shares] == [2, 2, 2]
    indices = [share[i].index for share in shares for i in range(len(share))]
    assert sorted(indices) == [-1, 0, 1, 2, 3, 4]


def test_the_filler_has_no_label(word_tokenizer):
    rows = encode(
        [Example(str(i), "a", " b") for i in range(3)], word_tokenizer, split="calibration", max_length=9
    )
    batch = ScoringCollator(pad_token_id=0)(list(EvenShare(rows.rows, num_replicas=2, rank=1)))
    assert batch["index"].tolist() == [1, -1]
    assert batch["labels"].tolist() == [[-100, -100, 5, 2], [-100] * 4]
