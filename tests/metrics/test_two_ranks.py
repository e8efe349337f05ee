"""Every metric over two real processes, one of which may have nothing."""

import pytest
import torch

from tests.metrics import two_ranks
from tests.processes import run_both


@pytest.fixture(scope="module")
def both_ranks(tmp_path_factory):
    """What each of two real processes found, by name of the split."""
    return run_both(two_ranks.both, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def whole():
    """What one process finds."""
    samples = range(two_ranks.COUNT)
    return two_ranks.scored(samples), two_ranks.written(samples)


@pytest.mark.parametrize("shares", two_ranks.SHARES)
def test_choices_and_tokens_are_those_of_one_process(both_ranks, whole, shares):
    wanted, _ = whole
    assert wanted["number"].tolist() == list(range(two_ranks.COUNT))
    for found in both_ranks:
        for name, value in wanted.items():
            assert torch.equal(torch.as_tensor(found[shares][name]), torch.as_tensor(value)), name


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("shares", [name for name in two_ranks.SHARES if name != "repeated"])
def test_written_answers_are_those_of_one_process(both_ranks, whole, shares):
    _, wanted = whole
    assert wanted["abstained"] > 0
    for found in both_ranks:
        assert {name: found[shares][name] for name in wanted} == pytest.approx(wanted, abs=1e-12)
