import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svd_lightning.data import Example, SplitSizes, cut, make_splits
from svd_lightning.errors import InputError


def examples(count, *, prefix="", group_size=None):
    return [
        Example(f"{prefix}{i}", f"p{prefix}{i}", "c", group=str(i // group_size) if group_size else None)
        for i in range(count)
    ]


def ids(rows):
    return [row.id for row in rows]


@given(
    st.integers(10, 200),
    st.one_of(st.none(), st.integers(0, 9), st.floats(0, 0.8)),
    st.integers(0, 1000),
)
def test_a_cut_is_disjoint_complete_ordered_and_seeded(count, size, seed):
    rows = examples(count)
    kept, taken = cut(rows, size, name="test", seed=seed)
    assert sorted(ids(kept + taken), key=int) == ids(rows)
    assert ids(kept) == sorted(ids(kept), key=int)
    assert ids(taken) == sorted(ids(taken), key=int)
    assert cut(rows, size, name="test", seed=seed) == (kept, taken)
    if isinstance(size, int):
        assert len(taken) == size


@given(st.lists(st.integers(0, 20), min_size=2, max_size=60).filter(lambda groups: len(set(groups)) > 1))
def test_a_group_never_comes_apart(groups):
    rows = [Example(str(i), "p", "c", group=str(group)) for i, group in enumerate(groups)]
    kept, taken = cut(rows, 1, name="test")
    assert not {row.group for row in kept} & {row.group for row in taken}
    assert len({row.group for row in taken}) == 1


@given(st.permutations(examples(12)))
def test_the_order_of_the_data_moves_nothing(rows):
    assert set(ids(cut(rows, 4, name="test")[1])) == set(ids(cut(examples(12), 4, name="test")[1]))


def test_seeds_and_purposes_draw_differently():
    rows = examples(100)
    draws = {(seed, name): tuple(ids(cut(rows, 10, name=name, seed=seed)[1])) for seed in (0, 1) for name in "ab"}
    assert len(set(draws.values())) == 4


@pytest.mark.parametrize(("count", "fraction", "expected"), [(817, 0.2, 164), (10, 0.1, 1), (100, 0.07, 7)])
def test_fractions_round_up_without_floating_point_dust(count, fraction, expected):
    assert len(cut(examples(count), fraction, name="test")[1]) == expected


def test_each_size_takes_from_what_the_others_left():
    sizes = SplitSizes(test=0.2, validation=10, calibration=0.5)
    splits = make_splits(examples(100), {}, sizes=sizes)
    assert {name: len(rows) for name, rows in splits.items()} == {
        "train": 35,
        "test": 20,
        "validation": 10,
        "calibration": 35,
        "predict": 20,
    }
    everything = [name for split in ("train", "test", "validation", "calibration") for name in ids(splits[split])]
    assert len(everything) == len(set(everything)) == 100


def test_the_calibration_size_leaves_the_test_split_alone():
    one = make_splits(examples(50), {}, sizes=SplitSizes(test=0.2, calibration=0.1))
    other = make_splits(examples(50), {}, sizes=SplitSizes(test=0.2, calibration=0.5))
    assert ids(one["test"]) == ids(other["test"])


def test_given_splits_are_taken_whole():
    given_splits = {"calibration": examples(3, prefix="c"), "predict": examples(2, prefix="p")}
    splits = make_splits(examples(10), given_splits, sizes=SplitSizes(test=2, calibration=5))
    assert ids(splits["calibration"]) == ["c0", "c1", "c2"]
    assert ids(splits["predict"]) == ["p0", "p1"]
    assert len(splits["train"]) == 8


def test_prediction_takes_one_prompt_per_group():
    splits = make_splits(examples(20, group_size=4), {}, sizes=SplitSizes(test=2))
    assert len(splits["test"]) == 8
    assert len(splits["predict"]) == 2


def test_limit_keeps_examples_in_their_splits():
    sizes = SplitSizes(test=0.3, validation=0.2, calibration=0.2)
    whole = make_splits(examples(100), {}, sizes=sizes, seed=3)
    small = make_splits(examples(100), {}, sizes=sizes, seed=3, limit=5)
    assert all(len(rows) == 5 and set(ids(rows)) <= set(ids(whole[name])) for name, rows in small.items())
    assert ids(small["predict"]) == ids(small["test"])


def test_an_id_twice_in_a_dataset_is_refused():
    with pytest.raises(InputError, match="each example of train, got 'same' twice"):
        make_splits([Example("same", "a", "b"), Example("same", "c", "d")], {}, sizes=SplitSizes())


@pytest.mark.parametrize("split", ["calibration", "validation", "test"])
def test_an_id_in_two_splits_is_refused(split):
    with pytest.raises(InputError, match=r"got 2 in both train and .*first id '0'"):
        make_splits(examples(5), {split: examples(2)}, sizes=SplitSizes())


def test_prediction_may_repeat_any_split():
    assert len(make_splits(examples(5), {"predict": examples(2)}, sizes=SplitSizes())["predict"]) == 2


def test_calibration_texts_that_train_has_too_are_reported():
    train = [Example("t1", "p", "c"), Example("t2", "q", "c")]
    with pytest.warns(UserWarning, match="1 of 1 calibration examples have the same text.*'k1' is 't1'"):
        make_splits(train, {"calibration": [Example("k1", "p", "c")]}, sizes=SplitSizes())


def test_different_texts_are_not_reported():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_splits(examples(5), {"calibration": examples(2, prefix="c")}, sizes=SplitSizes())


@pytest.mark.parametrize("size", [-1, 1.0, 1.5, -0.1, float("nan"), True, "all"])
@pytest.mark.parametrize("name", ["test", "validation", "calibration"])
def test_impossible_sizes_are_refused(size, name):
    with pytest.raises(InputError, match=rf"data\.{name}: expected a count"):
        SplitSizes(**{name: size})


@pytest.mark.parametrize("size", [5, 6, 0.99])
def test_a_size_that_leaves_nothing_to_train_on_is_refused(size):
    with pytest.raises(InputError, match="leaves some of the 5 examples"):
        cut(examples(5), size, name="calibration")
