"""The price on weights of features: against scipy on full logits, and what it is for."""

import pytest
import torch
from scipy.optimize import minimize

from svd_lightning.errors import InputError
from svd_lightning.objective import MaskedObjective
from svd_lightning.steering import Entropy, Steering, expand
from svd_lightning.strength import Fixed, LineSearch
from svd_lightning.strength.line_search import RIDGES, best_ridges
from tests.objective import contextual, reference

KL, NATURAL, TEMPERATURE = reference.RULES
EVERY_CHOICE = pytest.mark.parametrize("rules", [(KL,), (NATURAL, TEMPERATURE)], ids=["one", "two"])
COUNT = 90


def plain_strengths(problem, rules):
    """The plain optimum among the weights, features at 0."""
    table = problem.table
    found = LineSearch()(MaskedObjective(table, rules, penalty=0.0)).strengths
    return [w for mu in found for w in (mu, 0.0, 0.0, 0.0)]


@EVERY_CHOICE
@pytest.mark.parametrize("ridge", [0.0, 0.1, 10.0])
def test_finds_what_scipy_finds(rules, ridge):
    data = reference.tokens(COUNT)
    zeros = torch.zeros(4 * len(rules), dtype=torch.float64)
    curvature = torch.autograd.functional.hessian(
        lambda w: contextual.nll(w, data, rules, penalty=0.0), zeros
    ).diagonal()
    price = torch.tensor([0.0 if i % 4 == 0 else ridge * curvature[i - i % 4] for i in range(len(zeros))])

    def priced(w):
        return contextual.nll(w, data, rules, penalty=0.0) + 0.5 * (price * w.square()).sum()

    def at(w):
        value, slope = torch.autograd.functional.vjp(priced, torch.tensor(w, dtype=torch.float64))
        return value.item(), slope.numpy()

    found = LineSearch(ridge=ridge)(contextual.masked(data, rules, penalty=0.0))
    assert found.warning is None
    best = minimize(at, zeros.numpy(), jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 2000})
    assert found.strengths == pytest.approx(best.x, rel=1e-3, abs=1e-3)


@EVERY_CHOICE
def test_a_large_price_leaves_the_plain_strengths(rules):
    problem = contextual.masked(reference.tokens(COUNT), rules, penalty=0.0)
    found = LineSearch(ridge=1e9)(problem).strengths
    assert found == pytest.approx(plain_strengths(problem, rules), rel=1e-3, abs=1e-5)


@EVERY_CHOICE
def test_a_constant_added_to_a_feature_changes_nothing(rules):
    class Shifted(Entropy):
        def value(self, log_p, log_q):
            return super().value(log_p, log_q) + 3.0

    data, found = reference.tokens(COUNT), []
    for feature in (Entropy(), Shifted()):
        steering = Steering(rules, features=[feature], penalty=0.0)
        metric = contextual.TokenCollector(rules, features=[feature])
        data.update(metric)
        problem = MaskedObjective(metric.compute(), steering.directions, penalty=0.0)
        weights = LineSearch(tolerance=1e-10, ridge=0.1)(problem).strengths
        found.append(steering.with_strengths(weights)(data.tuned, data.base).log_softmax(-1))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


@EVERY_CHOICE
def test_never_worse_than_plain_on_calibration_data(rules):
    for seed in range(4):
        problem = contextual.masked(reference.tokens(COUNT, seed=seed), rules, penalty=0.0)
        nll = [
            problem.evaluate(torch.tensor(weights, dtype=torch.float64)).nll
            for weights in (
                LineSearch(ridge=0.0)(problem).strengths,
                LineSearch()(problem).strengths,
                plain_strengths(problem, rules),
            )
        ]
        assert nll[0] <= nll[1] + 1e-9 <= nll[2] + 2e-9


def test_curbs_overfitting():
    """Few examples whose labels do not depend on the features: the chosen price brings held-out NLL to plain."""
    rules, held_out = (NATURAL, TEMPERATURE), {"free": 0.0, "priced": 0.0, "plain": 0.0}
    for seed in range(12):
        fit, rest = reference.tokens(30, seed=seed), reference.tokens(600, seed=1000 + seed)
        problem, unseen = (contextual.masked(data, rules, penalty=0.0) for data in (fit, rest))
        weights = {
            "free": LineSearch(ridge=0.0)(problem).strengths,
            "priced": LineSearch()(problem).strengths,
            "plain": plain_strengths(problem, rules),
        }
        for name, found in weights.items():
            held_out[name] += unseen.evaluate(torch.tensor(found, dtype=torch.float64)).nll / 12
    assert held_out["priced"] < held_out["free"]
    assert held_out["priced"] - held_out["plain"] < 0.2 * (held_out["free"] - held_out["plain"])


def depending(count, *, seed=0):
    """Labels from a strength that grows with the entropy of p."""
    data = reference.tokens(count, seed=seed)
    w = torch.tensor([-1.0, 4.0, 0.0, 0.0], dtype=torch.float64)
    each = []
    for label in range(data.tuned.shape[-1]):
        labels = torch.full_like(data.labels, label)
        alike = reference.Tokens(data.tuned, data.base, labels, data.example, data.position)
        each.append(contextual.label_log_probs(w, alike, (NATURAL,), alpha=0.1, penalty=0.0))
    chances = torch.stack(each, dim=-1).exp()
    data.labels[:] = chances.multinomial(1, generator=torch.Generator().manual_seed(seed)).squeeze(-1)
    return data


def test_the_price_is_chosen_by_examples_that_the_weights_have_not_seen():
    options = {"bound": 1000.0, "tolerance": 1e-6}
    problems = [contextual.masked(reference.tokens(COUNT, seed=n), (NATURAL,), penalty=0.0) for n in range(5)]
    assert sorted(best_ridges(problems, **options))[2] >= 0.1
    needed = contextual.masked(depending(900), (NATURAL,), penalty=0.0)
    few = needed.counting(torch.arange(3), start=needed.start)
    found = best_ridges([needed, few], **options)
    assert found[0] <= 0.01
    assert found[1] == RIDGES[0]


def test_context_that_matters_is_found_and_pays_off():
    problem, unseen = (contextual.masked(depending(900, seed=seed), (NATURAL,), penalty=0.0) for seed in (0, 1))
    found = LineSearch()(problem)
    assert found.strengths[1] == pytest.approx(4.0, abs=1.0)
    [ridge] = best_ridges([problem], bound=1000.0, tolerance=1e-6)
    assert found == LineSearch(ridge=ridge)(problem)
    nll = [
        unseen.evaluate(torch.tensor(weights, dtype=torch.float64)).nll
        for weights in (found.strengths, plain_strengths(problem, (NATURAL,)))
    ]
    assert nll[0] < nll[1] - 0.01


def test_where_there_are_no_examples_the_price_is_given():
    class Bare:
        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            if name in ("examples", "counting", "label_log_probs"):
                raise AttributeError(name)
            return getattr(self.inner, name)

    problem = contextual.masked(reference.tokens(COUNT), (NATURAL,))
    with pytest.raises(InputError, match="ridge: expected a number, got none: there are no examples"):
        LineSearch()(Bare(problem))
    assert LineSearch(ridge=0.1)(Bare(problem)) == LineSearch(ridge=0.1)(problem)


def test_plain_rules_pay_nothing():
    problem = MaskedObjective(reference.table(reference.tokens(COUNT)), (KL, TEMPERATURE))
    assert LineSearch(ridge=5.0)(problem) == LineSearch(ridge=0.0)(problem)


def test_streamed_contextual_strengths():
    data = reference.tokens(COUNT)
    wide = MaskedObjective(
        contextual.table(data, (NATURAL,), alpha=1e-12), expand((NATURAL,), contextual.FEATURES), penalty=0.0
    )
    unmasked = contextual.streamed(data, (NATURAL,))
    assert LineSearch()(unmasked).strengths == pytest.approx(LineSearch()(wide).strengths, rel=1e-5)


def test_given_weights_are_counted():
    problem = contextual.masked(reference.tokens(), (KL,))
    assert Fixed([1.0, 0.0, 0.0, 2.0])(problem).strengths == (1.0, 0.0, 0.0, 2.0)
    with pytest.raises(InputError):
        Fixed([1.0])(problem)


@pytest.mark.parametrize("ridge", [-1.0, float("nan"), float("inf")])
def test_a_price_is_not_negative(ridge):
    with pytest.raises(InputError, match="ridge: expected a finite number of at least 0"):
        LineSearch(ridge=ridge)
