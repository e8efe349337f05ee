"""Intervals of the strengths: against refits on examples drawn again, on data with a known optimum, and where none
can be had."""

import json
from dataclasses import replace

import pytest
import torch

from svd_lightning.calibration import calibrate
from svd_lightning.calibration.cross_fit import Fit
from svd_lightning.calibration.pooling import Member, Pool, fit_members
from svd_lightning.objective import TokenCollector, objective
from svd_lightning.steering import Entropy, NaturalGradient, Steering, expand, with_built_in
from svd_lightning.strength import (
    Fixed,
    LineSearch,
    Mean,
    Median,
    Newton,
    Sequence,
    StrengthEstimator,
    TrimmedMean,
)
from svd_lightning.strength.intervals import intervals
from tests.objective import reference
from tests.strength.objectives import masked, streamed

KL, NATURAL, TEMPERATURE = reference.RULES
CONTEXTUAL = expand((NATURAL,), (Entropy(),))
CLOSED = (Mean(), Median(), TrimmedMean(), Sequence(), Newton())
RESAMPLES = 200


def rows_of(data, examples):
    """The tokens of these examples, one after another, each example under a number of its own."""
    parts = [(data.example == number).nonzero().flatten() for number in examples]
    again = data[torch.cat(parts)]
    number = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor([len(part) for part in parts]))
    return reference.Tokens(again.tuned, again.base, again.labels, number, again.position)


def found(estimator: StrengthEstimator, problem, example):
    return intervals(estimator, problem, estimator(problem), example)


def of_table(estimator, data, rules, **options):
    """The intervals on a table, whose tokens are in the order of (example, position)."""
    return found(estimator, masked(data, rules, **options), data.example)


def with_entropy(data):
    metric = TokenCollector(reference.RULES, features=(Entropy(),), alpha=0.1)
    data.update(metric)
    return metric.compute()


@pytest.fixture(scope="module")
def ragged():
    """100 examples of one to five tokens."""
    data = reference.tokens(500, size=7, spread=1.0)
    data.example[:], data.position[:] = torch.arange(500) // 5, torch.arange(500) % 5
    length = torch.randint(1, 6, (100,), generator=torch.Generator().manual_seed(3))
    return data[data.position < length[data.example]]


@pytest.fixture(scope="module")
def drawn(ragged):
    """The table of every draw of 100 examples."""
    generator = torch.Generator().manual_seed(11)
    draws = torch.randint(100, (RESAMPLES, 100), generator=generator)
    return [with_entropy(rows_of(ragged, draw.tolist())) for draw in draws]


@pytest.mark.parametrize(
    ("rules", "estimator"),
    [
        ((NATURAL,), LineSearch()),
        ((KL, TEMPERATURE), LineSearch()),
        (CONTEXTUAL, LineSearch(ridge=0.1)),
        *(((KL,), estimator) for estimator in CLOSED),
    ],
    ids=["one", "two", "contextual", *(type(estimator).__name__ for estimator in CLOSED)],
)
def test_as_wide_as_what_refits_on_examples_drawn_again_scatter(ragged, drawn, rules, estimator):
    refits = [estimator(objective(table, rules, penalty=0.0)).strengths for table in drawn]
    spread = torch.tensor(refits, dtype=torch.float64).quantile(torch.tensor([0.16, 0.84]).double(), dim=0)
    table = with_entropy(ragged)
    bounds = torch.tensor(found(estimator, objective(table, rules, penalty=0.0), table.example))
    half = (bounds[:, 1] - bounds[:, 0]) / 2 / 1.96
    assert ((spread[1] - spread[0]) / 2 / half).tolist() == pytest.approx([1.0] * len(rules), rel=0.3)
    here = torch.tensor(estimator(objective(table, rules, penalty=0.0)).strengths)
    assert ((bounds[:, 0] < here) & (here < bounds[:, 1])).all()


def drawn_along(along, *, examples, seed):
    """Examples that say the same thing three times; labels lie `along` log(p/q)."""
    data = reference.tokens(examples, size=4, seed=seed, spread=0.7)
    logits = data.tuned + along * (data.tuned - data.base)
    generator = torch.Generator().manual_seed(10_000 + seed)
    data.labels[:] = logits.softmax(-1).multinomial(1, generator=generator).squeeze(-1)
    thrice = torch.arange(examples).repeat_interleave(3)
    data = data[thrice]
    data.example[:], data.position[:] = thrice, torch.arange(3).repeat(examples)
    return data


def test_covers_the_known_optimum_as_often_as_it_says():
    """95 % of 200 data sets, give or take three standard errors; tokens taken for examples would be too sure."""
    hits = torch.zeros(2)
    for seed in range(200):
        data = drawn_along(0.6, examples=80, seed=seed)
        alone = replace(data, example=torch.arange(len(data)))
        for way, tokens in enumerate((data, alone)):
            [[low, high]] = of_table(LineSearch(), tokens, (NATURAL,), penalty=0.0, alpha=1e-9)
            hits[way] += low <= 0.6 <= high
    covered, too_sure = (hits / 200).tolist()
    assert covered == pytest.approx(0.95, abs=3 * 0.0154)
    assert too_sure < 0.85


@pytest.mark.parametrize("estimator", [LineSearch(), *CLOSED], ids=lambda one: type(one).__name__)
def test_saying_it_twice_makes_nothing_surer(ragged, estimator):
    """Nor do tokens of the same example that are the same; the same as further examples do."""
    order = torch.arange(len(ragged)).repeat_interleave(2)
    twice = ragged[order]
    twice.position[:] = 2 * twice.position + torch.arange(len(order)) % 2
    once = of_table(estimator, ragged, (NATURAL,))
    [[low, high]], [expected] = of_table(estimator, twice, (NATURAL,)), once
    assert [low, high] == pytest.approx(expected, rel=1e-5)
    twice.example[:] = 2 * twice.example + torch.arange(len(order)) % 2
    examples = twice.example.argsort(stable=True)
    [[low, high]] = of_table(estimator, twice[examples], (NATURAL,))
    assert (high - low) / (expected[1] - expected[0]) == pytest.approx(2**-0.5, rel=0.25)


def test_streams_say_the_same_and_are_not_asked_again(ragged):
    for estimator, rules in ((LineSearch(), (NATURAL, TEMPERATURE)), (Newton(), (NATURAL,))):
        problem = streamed(ragged, rules)
        estimate = estimator(problem)
        passes = problem.stream.passes
        bounds = intervals(estimator, problem, estimate, ragged.example)
        assert problem.stream.passes == passes
        whole = of_table(estimator, ragged, rules, penalty=0.0, alpha=1e-9)
        assert torch.tensor(bounds).numpy() == pytest.approx(torch.tensor(whole).numpy(), rel=1e-4)


def test_shares_add_up_to_the_gradient(ragged):
    at, some = torch.tensor([0.4, -0.2], dtype=torch.float64), torch.tensor([3, 8, 21])
    for whole in (masked(ragged, (KL, TEMPERATURE), penalty=0.0), streamed(ragged, (KL, TEMPERATURE))):
        for problem in (whole, whole.counting(some, start=at)):
            shares = problem.example_sums(at)
            gradient = shares.gradient.sum(dim=0) / shares.tokens.sum()
            assert torch.allclose(gradient, problem.evaluate(at).gradient, rtol=1e-9, atol=1e-12)
            for number, share in zip(problem.examples.tolist(), shares.gradient, strict=True):
                one = whole.counting(torch.tensor([number]), start=at).evaluate(at).gradient
                assert torch.allclose(share, one * (ragged.example == number).sum(), rtol=1e-9, atol=1e-12)


def separable():
    data = reference.tokens(spread=0.3)
    data.labels[:] = data.tuned.argmax(-1)
    return data


def agreeing():
    data = reference.tokens()
    data.base[:] = data.tuned
    return data


@pytest.mark.parametrize(
    ("estimator", "data", "rules"),
    [
        (LineSearch(), separable(), (TEMPERATURE,)),
        (LineSearch(bound=0.01), reference.tokens(), (KL,)),
        (LineSearch(kl_budget=1e-6), reference.tokens(), (KL,)),
        (LineSearch(), agreeing(), (KL,)),
        (LineSearch(), reference.tokens(), (KL, KL)),
        (LineSearch(), reference.tokens(3), (KL,)),
        (LineSearch(), reference.tokens(6), (KL, TEMPERATURE)),
        (Mean(), agreeing(), (KL,)),
        (Mean(), reference.tokens(3), (KL,)),
        (Fixed([0.5]), reference.tokens(), (KL,)),
    ],
    ids=[
        *("separable", "bound", "budget", "nothing to learn", "the same rule twice", "one example"),
        *("two strengths from two examples", "closed: nothing to learn", "closed: one example", "given by hand"),
    ],
)
def test_none_where_there_is_none_to_be_had(estimator, data, rules):
    assert of_table(estimator, data, rules, penalty=0.0) is None


def test_the_pool_holds_a_task_and_narrows_its_interval(ragged):
    problem, search = masked(ragged, (NATURAL,), penalty=0.0), LineSearch()
    task = torch.arange(0, 100, 4)
    own = problem.counting(task, start=problem.start)
    [alone] = intervals(search, own, search(own), own.table.example)
    pool = Pool(Fit(search, problem, search(problem)))
    member = Member(pool, task)
    widths = []
    for prior in (1e-6, 5.0, 50.0):
        [[low, high]] = member.intervals(*fit_members([member], prior=prior))
        widths.append(high - low)
    assert widths[0] == pytest.approx(alone[1] - alone[0], rel=1e-3)
    assert widths[0] > widths[1] > widths[2] > 0.0
    assert member.intervals(*fit_members([member], prior=torch.inf)) is None


@pytest.mark.parametrize("guard", [True, False])
def test_a_calibration_records_them(guard):
    data = drawn_along(3.0, examples=60, seed=1)
    steering = Steering([NaturalGradient()], alpha=1e-6, penalty=0.0)
    rules = (*reference.RULES, *steering.directions)
    table = reference.table(data, rules=rules, alpha=1e-6)
    record = calibrate(table, steering, LineSearch(), guard=guard, others=False)
    [[low, high]] = record["intervals"]
    assert low < record["strengths"][0] < high
    by_rule = {tuple(candidate["rules"]): candidate["intervals"] for candidate in record["candidates"]}
    assert by_rule[("NaturalGradient",)] == record["intervals"]
    assert by_rule[tuple(record["used"]["rules"])] == record["used"]["intervals"]
    [[low, high]] = by_rule[("Temperature",)]
    assert low < high
    assert json.loads(json.dumps(record)) == record


@pytest.mark.parametrize("chosen", [Mean(), LineSearch()])
def test_closed_forms_are_drawn_again_only_when_chosen(chosen):
    data = drawn_along(0.6, examples=30, seed=1)
    table = reference.table(data, rules=with_built_in((KL,)), alpha=1e-6)
    record = calibrate(table, Steering([KL], alpha=1e-6, penalty=0.0), chosen)
    assert len(record["intervals"]) == 1
    for candidate in record["candidates"]:
        mine = (candidate["rules"], candidate["estimator"]) == (["KLGradient"], type(chosen).__name__)
        if candidate["estimator"] != "LineSearch":
            assert (candidate["intervals"] is not None) == mine
        elif len(candidate["rules"]) == 1:
            assert candidate["intervals"][0][0] < candidate["strengths"][0] < candidate["intervals"][0][1]
