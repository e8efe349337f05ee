"""Strengths drawn towards the pool: against scipy on full logits, against their limits, against a plain loop."""

import math

import pytest
import torch
from scipy.optimize import minimize

from svd_lightning.calibration.cross_fit import Fit, fit_each
from svd_lightning.calibration.pooling import PRIORS, Member, Pool, fit_members, fit_tasks
from svd_lightning.calibration.split import CalibrationSplit, example_folds
from svd_lightning.objective import MaskedObjective, objective
from svd_lightning.steering import KLGradient, Temperature
from svd_lightning.strength import Fixed, LineSearch, Mean, Newton
from tests.objective import reference

RULES = reference.RULES[:2]
SEARCH = LineSearch(tolerance=1e-9)
COUNT = 120
TASK = torch.arange(0, COUNT // 3, 4)  # a quarter of the examples
NONE = torch.tensor([], dtype=torch.int64)


def pool(data, rules, estimator=SEARCH, *, alpha=0.1, penalty=0.0):
    problem = MaskedObjective(reference.table(data, alpha=alpha), rules, penalty=penalty)
    return Pool(Fit(estimator, problem, estimator(problem)))


def task_strengths(shared, examples, prior):
    """The strengths of the task with these examples in a pool."""
    return fit_members([Member(shared, examples)], prior=prior)[0].strengths


@pytest.mark.parametrize("rules", [RULES[:1], RULES], ids=["one", "two"])
@pytest.mark.parametrize("prior", [1.0, 30.0, 1e4])
def test_the_pool_weighs_as_so_many_examples(rules, prior):
    data = reference.tokens(COUNT)
    shared = pool(data, rules)
    mine = data[torch.isin(data.example, TASK)]
    where = {"alpha": 0.1, "penalty": 0.0}
    curvature = reference.evaluate(shared.strengths, data, rules, **where)[2]

    def priced(strengths):
        away = strengths - shared.strengths
        own = -reference.label_log_probs(strengths, mine, rules, **where).sum()
        tokens_per_example = len(mine) / len(TASK)
        return own + 0.5 * prior * tokens_per_example * away @ curvature @ away

    def at(strengths):
        value, slope = torch.autograd.functional.vjp(priced, torch.tensor(strengths, dtype=torch.float64))
        return value.item(), slope.numpy()

    best = minimize(at, shared.strengths.numpy(), jac=True, method="BFGS", options={"gtol": 1e-10})
    assert task_strengths(shared, TASK, prior) == pytest.approx(best.x, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("estimator", [SEARCH, Mean(), Newton(), Fixed([1.5])], ids=lambda one: type(one).__name__)
def test_without_examples_exactly_the_pool_with_many_the_own(estimator):
    shared = pool(reference.tokens(COUNT), RULES[:1], estimator)
    for examples, prior in ((NONE, 1.0), (torch.tensor([COUNT]), 1.0), (TASK, math.inf)):
        assert task_strengths(shared, examples, prior) == tuple(shared.strengths.tolist())
    own = estimator(shared.objective.counting(TASK, start=shared.strengths)).strengths
    assert task_strengths(shared, TASK, 1e-9) == pytest.approx(own, rel=1e-5)


def test_what_a_penalty_forbids_is_no_example():
    data = reference.tokens(COUNT)
    data.labels[:12] = data.tuned[:12].argmin(-1)  # of the first four examples no label is confident
    silent = torch.arange(4)
    assert not reference.covered(data, 0.1)[:12].any()
    shared = pool(data, RULES[:1], penalty=-math.inf)
    assert task_strengths(shared, silent, 1.0) == tuple(shared.strengths.tolist())
    both = task_strengths(shared, torch.cat([TASK, silent]).unique(), 3.0)
    assert both == task_strengths(shared, TASK[1:], 3.0)


def test_closed_forms_are_averaged_by_credibility():
    shared = pool(reference.tokens(COUNT), RULES[:1], Mean())
    [own] = Mean()(shared.objective.counting(TASK, start=shared.strengths)).strengths
    [found] = task_strengths(shared, TASK, 30.0)
    assert found == pytest.approx((len(TASK) * own + 30.0 * shared.strengths.item()) / (len(TASK) + 30.0))


def two_kinds(count, *, apart):
    """Examples of three tokens; labels of the odd ones lie `apart` further along log(p/q) than of the even."""
    data = reference.tokens(count, size=7, spread=1.0)
    generator = torch.Generator().manual_seed(9)
    along = 0.5 + apart * (data.example % 2 - 0.5)
    logits = data.tuned + along[:, None] * (data.tuned - data.base)
    labels = logits.softmax(-1).multinomial(1, generator=generator).squeeze(-1)
    data = reference.Tokens(data.tuned, data.base, labels, data.example, data.position)
    numbers = data.example.unique()
    return data, {"odd": numbers[numbers % 2 == 1], "even": numbers[numbers % 2 == 0]}


def fitted(data, tasks, *, rules=RULES[1:], alpha=1e-6, penalty=0.0):
    table = reference.table(data, alpha=alpha)
    fits = fit_each([(SEARCH, objective(table, rules, penalty=penalty))])
    [found] = fit_tasks(table.example, fits, tasks, folds=3)
    return table, fits[0].estimate.strengths, found


def test_tasks_that_differ_get_their_own_and_tasks_that_do_not_the_pool():
    data, tasks = two_kinds(1200, apart=2.0)
    _, _, found = fitted(data, tasks)
    assert found.prior < 200
    assert found.estimates["odd"].strengths[0] == pytest.approx(1.5, abs=0.2)
    assert found.estimates["even"].strengths[0] == pytest.approx(-0.5, abs=0.2)
    data, tasks = two_kinds(1200, apart=0.0)
    _, pooled, found = fitted(data, tasks)
    assert found.prior >= 1000
    for task in tasks:
        assert found.estimates[task].strengths == pytest.approx(pooled, abs=0.05)


@pytest.mark.parametrize("penalty", [0.0, -2.0])
def test_held_out_log_probabilities_against_a_plain_loop(penalty):
    """One fit for each fold, task and prior; the prior of a fold is the best of the other folds."""
    data, tasks = two_kinds(180, apart=1.5)
    del tasks["even"]  # and examples of no task
    rules = (KLGradient(), Temperature())
    table, _, found = fitted(data, tasks, rules=rules, alpha=0.05, penalty=penalty)
    numbers, fold = example_folds(table.example, 3)
    where = {"alpha": 0.05, "penalty": penalty}
    by_prior, by_fold = torch.zeros(len(PRIORS), len(data), dtype=torch.float64), []
    for held in range(3):
        seen = torch.isin(data.example, numbers[fold != held])
        shared = pool(data[seen], rules, **where)
        by_fold.append([task_strengths(shared, tasks["odd"], prior) for prior in PRIORS])
        for place in range(len(PRIORS)):
            own = torch.tensor(by_fold[held][place], dtype=torch.float64)
            for mine, at in ((data.example % 2 == 1, own), (data.example % 2 == 0, shared.strengths)):
                keep = ~seen & mine
                by_prior[place, keep] = reference.label_log_probs(at, data[keep], rules, **where)
    possible = by_prior.isfinite().all(dim=0)
    [scores] = CalibrationSplit(table, penalty=penalty).scores([rules], [found.held_out])
    held_out = scores.fitted
    for held in range(3):
        here = torch.isin(data.example, numbers[fold == held])
        best = int(by_prior[:, ~here & possible].sum(dim=1).argmax())
        torch.testing.assert_close(held_out[here], by_prior[best, here], rtol=1e-4, atol=1e-4)
        assert found.fold_strengths["odd"][held] == pytest.approx(by_fold[held][best], rel=1e-3, abs=1e-3)
    assert found.prior == PRIORS[int(by_prior[:, possible].sum(dim=1).argmax())]
