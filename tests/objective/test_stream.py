"""Unmasked calibration from a stream: the optimum, the agreement with a table, and what it costs."""

import pytest
import torch
from scipy.optimize import minimize

from svd_lightning.calibration import calibrate
from svd_lightning.errors import InputError
from svd_lightning.objective import objective, prefetch
from svd_lightning.steering import Steering, TaskAware
from svd_lightning.strength import LineSearch
from svd_lightning.strength.solver import minimise_all
from tests.objective import reference, two_ranks
from tests.processes import run_both


def double(values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_strengths_are_scipy_s_on_the_whole_vocabulary(k):
    data, rules = reference.tokens(60, 11), reference.RULES[:k]

    def slope(mu):
        value, gradient, _ = reference.evaluate(double(mu.tolist()), data, rules, alpha=None, penalty=0.0)
        return value.item(), gradient.numpy()

    wanted = minimize(slope, torch.zeros(k).double().numpy(), jac=True, method="BFGS", options={"gtol": 1e-9}).x
    record = calibrate(reference.stream(data, chunk=7), Steering(rules, alpha=None), LineSearch())
    assert record["strengths"] == pytest.approx(wanted.tolist(), rel=1e-4, abs=1e-5)
    assert record["coverage"] == 1.0
    assert record["mask_size"] == 11
    assert record["sweep"] == []
    assert record["recommended"] is None
    assert record["nll_steered"] == record["nll_decoded_steered"] <= record["nll_tuned"]


@pytest.mark.parametrize("k", [1, 2])
def test_a_tiny_alpha_says_the_same(k):
    """Every candidate, gain and interval: masked and unmasked calibration are one."""
    data = reference.tokens(60, 11)
    rules = reference.RULES[:k]
    table = reference.table(data, rules=(*reference.RULES, TaskAware()), alpha=1e-12)
    masked = calibrate(table, Steering(rules, alpha=1e-12, penalty=0.0), LineSearch())
    free = calibrate(reference.stream(data, chunk=9), Steering(rules, alpha=None), LineSearch())
    assert len(masked["candidates"]) == len(free["candidates"])
    for left, right in zip(masked["candidates"], free["candidates"], strict=True):
        assert left["rules"] == right["rules"]
        assert left["nll"] == pytest.approx(right["nll"], rel=1e-6)
        assert left["accuracy"] == right["accuracy"]
        assert left["gain"] == pytest.approx(right["gain"], abs=1e-4)
    for name in ("strengths", "kl_to_reference", "nll_base", "nll_tuned", "nll_steered"):
        assert masked[name] == pytest.approx(free[name], rel=1e-4, abs=1e-6), name
    assert masked["verdict"] == free["verdict"]


def test_all_recipes_and_folds_cost_some_tens_of_passes_at_most():
    stream = reference.stream(reference.tokens(60, 11))
    calibrate(stream, Steering(alpha=None), LineSearch())
    assert stream.passes <= 30


def test_the_order_of_the_stream_and_repetitions_do_not_matter():
    data = reference.tokens()
    shuffled = data[
        torch.cat([torch.randperm(len(data), generator=torch.Generator().manual_seed(1)), torch.arange(3)])
    ]
    one, other = reference.stream(data), reference.stream(shuffled, chunk=5)
    assert other.num_tokens == len(data)
    assert torch.equal(one.example, other.example)
    mu = double([0.3, -0.2, 0.1])
    for left, right in zip(
        objective(one, reference.RULES).evaluate(mu), objective(other, reference.RULES).evaluate(mu), strict=True
    ):
        torch.testing.assert_close(torch.as_tensor(left), torch.as_tensor(right), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(one.label_log_q, other.label_log_q)


def test_a_table_for_a_steering_without_a_mask_is_refused():
    with pytest.raises(InputError, match="TokenStream where it has none, got a TokenTable"):
        calibrate(reference.table(reference.tokens()), Steering(alpha=None), LineSearch())


def test_what_is_fetched_together_costs_one_pass(monkeypatch):
    """And is kept until the next fetch, however much it is."""
    monkeypatch.setattr("svd_lightning.objective.stream._REMEMBERED", 1)
    stream = reference.stream(reference.tokens(), chunk=5)
    problem = objective(stream, reference.RULES)
    folds = [problem, problem.restricted(torch.arange(4))]
    points = [double([0.1, 0.2, 0.3]), double([0.3, -0.1, 0.0])]
    for wanted in (points, points[::-1]):
        passes = stream.passes
        prefetch(folds, wanted)
        found = [fold.evaluate(point) for fold, point in zip(folds, wanted, strict=True)]
        assert stream.passes == passes + 1
        alone = [
            objective(reference.stream(reference.tokens()), reference.RULES).evaluate(wanted[0]),
            objective(reference.stream(reference.tokens()[:12]), reference.RULES).evaluate(wanted[1]),
        ]
        for one, other in zip(found, alone, strict=True):
            torch.testing.assert_close(torch.as_tensor(one.nll), torch.as_tensor(other.nll))
            torch.testing.assert_close(one.hessian, other.hessian)


def test_searches_in_step_find_what_each_finds_alone_in_the_passes_of_the_longest():
    data, options = reference.tokens(60, 11), {"bound": 1000.0, "tolerance": 1e-9}
    stream, alone = reference.stream(data), []
    problems = [objective(stream, reference.RULES[:k]) for k in (1, 2, 3)]
    found = minimise_all(problems, **options)
    for k, solution in enumerate(found, start=1):
        one = reference.stream(data)
        [expected] = minimise_all([objective(one, reference.RULES[:k])], **options)
        torch.testing.assert_close(solution.strengths, expected.strengths)
        alone.append(one.passes)
    assert stream.passes == max(alone)


@pytest.fixture(scope="module")
def both_ranks(tmp_path_factory):
    """What each of two real processes found, by name of the split."""
    return run_both(two_ranks.streamed, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("shares", two_ranks.SHARES)
def test_two_processes_answer_as_one(both_ranks, shares):
    whole = two_ranks.answers(reference.tokens(two_ranks.COUNT))
    for found in both_ranks:
        torch.testing.assert_close(found[shares], whole, rtol=1e-12, atol=1e-12)
