"""Unmasked calibration from a stream: the optimum, the agreement with a table, and what it costs."""

import pytest
import torch
from scipy.optimize import minimize

from svd_lightning.calibration import calibrate
from svd_lightning.errors import InputError
from svd_lightning.objective import objective
from svd_lightning.objective.together import Together
from svd_lightning.steering import Steering, TaskAware
from svd_lightning.strength import LineSearch
from tests.objective import reference


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


def test_questions_of_nested_jobs_are_answered_together_in_order():
    asked = []

    def answer(questions):
        asked.append(list(questions))
        return [10 * question for question in questions]

    jobs = Together(answer)

    def inner(number):
        return jobs.ask(number)

    def outer(number):
        return jobs.ask(number) + sum(jobs.map(inner, [number + 1, number + 2]))

    assert jobs.map(outer, [1, 4]) == [60, 150]
    assert asked == [[1, 4], [2, 3, 5, 6]]
    assert jobs.ask(7) == 70


@pytest.mark.parametrize("where", ["job", "answer"])
def test_an_error_reaches_the_caller(where):
    def answer(questions):
        if where == "answer":
            raise InputError("no answer")
        return questions

    def job(number):
        jobs.ask(number)
        raise InputError("no answer")

    jobs = Together(answer)
    with pytest.raises(InputError, match="no answer"):
        jobs.map(job, range(3))
