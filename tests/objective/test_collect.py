"""The compact table against a slow reference from the whole vocabulary, and its reduction over processes."""

import math

import pytest
import torch

from svd_lightning.errors import InputError
from svd_lightning.objective import TokenCollector
from svd_lightning.steering import KLGradient
from tests.objective import reference, two_ranks
from tests.objective.reference import RULES
from tests.processes import run_both


def assert_same(left, right):
    """Bit for bit the same tensors, and the same metadata."""
    assert (left.alpha, left.rule_names) == (right.alpha, right.rule_names)
    for name, value in left.tensors().items():
        assert value.dtype == right.tensors()[name].dtype, name
        assert torch.equal(value, right.tensors()[name]), name


def assert_as_reference(data, alpha, **tolerance):
    found = reference.table(data, alpha=alpha)
    assert found.num_tokens == len(data)
    for token in range(len(data)):
        expected = reference.expected_contents(data, token, alpha)
        got = reference.contents(found, token)
        assert got.keys() == expected.keys()
        for name, value in got.items():
            assert value == pytest.approx(expected[name], **tolerance), name


@pytest.mark.parametrize("alpha", [1e-6, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("spread", [0.1, 2.0, 20.0])
def test_every_field(alpha, spread):
    assert_as_reference(reference.tokens(spread=spread), alpha, rel=1e-10, abs=1e-12)


def test_every_field_in_single_precision():
    assert_as_reference(reference.tokens().to(torch.float32), 0.1, rel=1e-5, abs=1e-6)


def test_one_token():
    assert_as_reference(reference.tokens(1), 0.1, rel=1e-10, abs=1e-12)


def test_one_entry_per_token_at_alpha_1():
    found = reference.table(reference.tokens(), alpha=1.0)
    assert found.mask_size == 1.0
    assert torch.equal(found.size, torch.ones(24, dtype=torch.int64))


def test_tied_maxima_are_both_confident_at_alpha_1():
    data = reference.tokens(1)
    data.tuned[0, [3, 7]] = 9.0
    data.labels[0] = 7
    found = reference.table(data, alpha=1.0)
    assert (found.size.item(), found.slot.item()) == (2, 1)


def test_tokens_that_a_model_forbids():
    data = reference.tokens()
    data.base[:, ::2] = -math.inf
    data.tuned[1, 4:] = -math.inf
    data.tuned[2, :] = -math.inf
    data.tuned[2, 5] = 1.0  # everything inside the mask: no rest
    assert_as_reference(data, 0.1, rel=1e-10, abs=1e-9)
    assert all(getattr(reference.table(data), name).isfinite().all() for name in ("log_q", "kl", "centres"))


@pytest.mark.parametrize("batch", [1, 5, 23])
def test_batch_size_does_not_matter(batch):
    data = reference.tokens().to(torch.float32)
    assert_same(reference.table(data, batch=batch), reference.table(data))


def test_order_does_not_matter():
    data = reference.tokens()
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(1))
    assert_same(reference.table(data[order], batch=7), reference.table(data))


def test_repeated_examples_are_dropped():
    data = reference.tokens()
    repeated = torch.cat([torch.arange(9, 24), torch.arange(24), torch.arange(6)])
    assert_same(reference.table(data[repeated], batch=7), reference.table(data))


def test_counts():
    data = reference.tokens()
    found = reference.table(data, alpha=0.3)
    inside = reference.covered(data, 0.3)
    assert 0 < inside.sum() < len(data)
    assert torch.equal(found.covered, inside)
    assert found.coverage == pytest.approx(inside.double().mean().item())
    assert found.num_examples == 8
    assert found.mask_size == pytest.approx(found.log_p.numel() / 24)


def test_selection_equals_a_table_of_those_tokens():
    data = reference.tokens()
    keep = torch.arange(len(data)) % 3 != 1
    assert_same(reference.table(data).select(keep), reference.table(data[keep]))


@pytest.mark.parametrize("alpha", [0.02, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("spread", [0.5, 2.0, 20.0])
def test_tables_nest(alpha, spread):
    """A table at a small α holds every larger one."""
    data = reference.tokens(spread=spread)
    wide, expected = reference.table(data, alpha=0.02).narrow(alpha), reference.table(data, alpha=alpha)
    for name, value in expected.tensors().items():
        torch.testing.assert_close(getattr(wide, name), value, check_dtype=False, rtol=1e-6, atol=1e-7)
    assert (wide.alpha, wide.rule_names) == (expected.alpha, expected.rule_names)


@pytest.mark.parametrize("alpha", [0.05, 1.1, math.nan])
def test_tables_do_not_grow(alpha):
    with pytest.raises(InputError, match=r"holds α from 0\.1 to 1"):
        reference.table(reference.tokens(), alpha=0.1).narrow(alpha)


def test_computing_twice_and_going_on():
    data, metric = reference.tokens(), TokenCollector(RULES)
    data[:10].update(metric)
    assert_same(metric.compute(), reference.table(data[:10]))
    data[10:].update(metric)
    assert_same(metric.compute(), reference.table(data))
    metric.reset()
    data[:4].update(metric)
    assert_same(metric.compute(), reference.table(data[:4]))


@pytest.mark.parametrize("model", ["tuned", "base"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_overflowed_are_refused(model, value):
    data = reference.tokens()
    getattr(data, model)[3, 2] = value
    with pytest.raises(InputError, match=f"{model} logits.*NaN or \\+inf"):
        reference.table(data)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("empty_batches", [0, 1, 2])
def test_nothing_is_refused(empty_batches):
    metric = TokenCollector(RULES)
    for _ in range(empty_batches):
        reference.tokens()[:0].update(metric)
    with pytest.raises(InputError, match="expected at least one completion token, got none"):
        metric.compute()


def test_an_empty_batch_adds_nothing():
    data, metric = reference.tokens().to(torch.float32), TokenCollector(RULES)
    for part in (data[:0], data[:9], data[9:9], data[9:]):
        part.update(metric)
    assert_same(metric.compute(), reference.table(data))


def test_tokens_may_follow_a_refusal():
    data, metric = reference.tokens().to(torch.float32), TokenCollector(RULES)
    with pytest.raises(InputError), pytest.warns(UserWarning, match="compute"):
        metric.compute()
    data.update(metric)
    assert_same(metric.compute(), reference.table(data))


def test_rules_that_the_table_does_not_know_are_refused():
    with pytest.raises(InputError, match="knows KLGradient, got NaturalGradient"):
        reference.table(reference.tokens(), rules=[KLGradient()]).directions(RULES)


@pytest.fixture(scope="module")
def both_ranks(tmp_path_factory):
    """What each of two real processes found, by name of the split."""
    return run_both(two_ranks.both, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("shares", two_ranks.SHARES)
def test_two_processes_find_the_table_of_one(both_ranks, shares):
    whole = reference.table(reference.tokens(two_ranks.COUNT).to(torch.float32))
    for found in both_ranks:
        assert_same(found[shares], whole)


def test_two_processes_without_tokens_are_refused(both_ranks):
    assert all("expected at least one completion token" in found["nobody"] for found in both_ranks)
