"""Feedback one example at a time against the line search on all of it at once."""

import math

import pytest
import torch

from svd_lightning.calibration import calibrate
from svd_lightning.errors import InputError
from svd_lightning.objective import MaskedObjective
from svd_lightning.steering import Entropy, KLGradient, NaturalGradient, Steering, Temperature
from svd_lightning.strength import LineSearch, OnlineStrength
from svd_lightning.strength import solver as solver_module
from tests.objective import contextual, reference
from tests.processes import run_both

SEARCH = LineSearch(tolerance=1e-9, ridge=0.01)
RECIPES = {
    "paper": Steering([KLGradient()]),
    "joint": Steering([NaturalGradient(), Temperature()], penalty=-1.0),
    "contextual": Steering([NaturalGradient()], penalty=0.0, features=contextual.FEATURES),
}
EVERY_RECIPE = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
COUNT = 90


def batch(data, recipe, search=SEARCH):
    """The line search on one table of all tokens."""
    metric = contextual.TokenCollector(recipe.rules, features=recipe.features, alpha=recipe.alpha)
    data.update(metric)
    return search(MaskedObjective(metric.compute(), recipe.directions, penalty=recipe.penalty))


def feed(online, data, examples):
    for number in examples:
        one = data[data.example == number]
        online.update(one.tuned, one.base, one.labels)
    return online


@EVERY_RECIPE
@pytest.mark.parametrize("order", ["forward", "backward", "shuffled"])
def test_one_pass_equals_the_batch_in_any_order(recipe, order):
    data = reference.tokens(COUNT)
    examples = {
        "forward": list(range(30)),
        "backward": list(range(29, -1, -1)),
        "shuffled": torch.randperm(30, generator=torch.Generator().manual_seed(5)).tolist(),
    }[order]
    online = feed(OnlineStrength(recipe, search=SEARCH), data, examples)
    expected = batch(data, recipe)
    assert online.examples == 30
    assert online.estimate.warning == expected.warning
    assert online.steering.strengths == pytest.approx(expected.strengths, rel=1e-6, abs=1e-7)


@EVERY_RECIPE
def test_equals_the_batch_at_every_moment(recipe):
    """However often it is asked in between."""
    data, online = reference.tokens(COUNT), OnlineStrength(recipe, search=SEARCH)
    for number in range(30):
        feed(online, data, [number])
        if number % 3 == 2 or number < 3:
            found = online.estimate
            expected = batch(data[data.example <= number], recipe)
            assert found.warning == expected.warning
            if found.warning is None:
                assert found.strengths == pytest.approx(expected.strengths, rel=1e-5, abs=1e-6)


def test_one_more_example_takes_few_steps(monkeypatch):
    data, online = reference.tokens(300), OnlineStrength(RECIPES["joint"])
    feed(online, data, range(60)).estimate  # noqa: B018  asked so that a search begins
    steps = []
    descend = solver_module._descend
    monkeypatch.setattr(solver_module, "_descend", lambda *args: steps.append(1) or descend(*args))
    for number in range(60, 100):
        feed(online, data, [number]).estimate  # noqa: B018
    assert len(steps) / 40 <= 3


def test_steers_as_it_says():
    data = reference.tokens(COUNT)
    online = feed(OnlineStrength(RECIPES["joint"]), data, range(30))
    steered = online.steering(data.tuned, data.base)
    assert torch.equal(steered, RECIPES["joint"].with_strengths(online.estimate.strengths)(data.tuned, data.base))


def test_the_tuned_model_until_something_is_known():
    online = OnlineStrength(RECIPES["paper"])
    assert online.steering.strengths == (0.0,)
    with pytest.raises(InputError, match="at least one update"):
        _ = online.table
    data = reference.tokens(3)
    data.labels[:] = data.tuned.argmin(-1)  # outside the mask: λ = −∞ forbids them
    assert feed(online, data, [0]).steering.strengths == (0.0,)
    more = reference.tokens(COUNT)
    online = feed(online, more, range(30))
    assert online.steering.strengths == pytest.approx(batch(more, RECIPES["paper"]).strengths, rel=1e-4)


def test_its_table_can_be_guarded():
    online = feed(OnlineStrength(RECIPES["joint"]), reference.tokens(COUNT), range(30))
    record = calibrate(online.table, online.steering, LineSearch(), guard=True)
    assert record["strengths"] == pytest.approx(online.steering.strengths, rel=1e-4)
    assert record["examples"] == 30


@EVERY_RECIPE
def test_a_memory_that_is_large_enough_changes_nothing(recipe):
    data = reference.tokens(COUNT)
    online = feed(OnlineStrength(recipe, search=SEARCH, memory=30), data, range(30))
    assert online.steering.strengths == pytest.approx(batch(data, recipe).strengths, rel=1e-6, abs=1e-7)


def test_a_bounded_memory_comes_near():
    """Approximate, but far nearer to all the data than the examples that it holds."""
    data, recipe = reference.tokens(900), RECIPES["joint"]
    whole = batch(data, recipe).strengths
    online = feed(OnlineStrength(recipe, memory=40), data, range(300))
    assert online.table.num_examples == 40
    window = batch(data[data.example >= 260], recipe).strengths
    assert math.dist(online.steering.strengths, whole) < 0.3 * math.dist(window, whole)


def test_a_bounded_memory_is_exact_where_the_objective_is_quadratic():
    """Nearly equal models: directions are short, and K is its own expansion."""
    data = reference.tokens(COUNT)
    data.base[:] = data.tuned + 1e-4 * (data.base - data.tuned)
    recipe = Steering([NaturalGradient()], penalty=0.0)
    search = LineSearch(tolerance=1e-12, bound=1e9, kl_budget=1e9)
    data.labels[:] = data.tuned.softmax(-1).multinomial(1, generator=torch.Generator().manual_seed(1)).squeeze(-1)
    online = feed(OnlineStrength(recipe, search=search, memory=25), data, range(30))
    expected = batch(data, recipe, search).strengths
    short = Steering(recipe.rules, expected, penalty=0.0)(data.tuned, data.base) - data.tuned
    scale = short.abs().max().item()
    assert online.steering.strengths == pytest.approx(expected, rel=max(1e-3, 0.5 * scale))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_refused_example_leaves_no_trace(value):
    data = reference.tokens(COUNT)
    online = feed(OnlineStrength(RECIPES["joint"]), data, range(20))
    before = online.estimate
    broken = data[60:63]
    broken.tuned[1, 2] = value
    with pytest.raises(InputError, match="tuned logits"):
        online.update(broken.tuned, broken.base, broken.labels)
    assert (online.examples, online.table.num_examples) == (20, 20)
    assert online.estimate == before
    with pytest.raises(InputError, match="labels: expected at least one token"):
        online.update(broken.tuned[:0], broken.base[:0], broken.labels[:0])
    assert online.examples == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steering": Steering(alpha=None)}, r"steering\.alpha: online strengths keep the confident tokens"),
        (
            {"steering": Steering(features=[Entropy()]), "search": LineSearch()},
            r"search\.ridge: expected a number",
        ),
        ({"steering": Steering(), "memory": 0}, "memory: expected at least 1 example"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(InputError, match=message):
        OnlineStrength(**options)


def test_features_are_learnt_too():
    recipe = Steering([NaturalGradient()], penalty=0.0, features=[Entropy()])
    online = feed(OnlineStrength(recipe), reference.tokens(COUNT), range(30))
    assert len(online.steering.strengths) == 2
    assert abs(online.steering.strengths[1]) > 1e-3


def learned_alone(rank):
    """What each of two processes learns from examples of its own; the second has fewer."""
    examples = (range(20), range(20, 30))[rank]
    return feed(
        OnlineStrength(RECIPES["joint"], search=SEARCH), reference.tokens(COUNT), examples
    ).steering.strengths


def test_each_of_several_processes_learns_from_its_own_examples(tmp_path):
    assert run_both(learned_alone, tmp_path) == [learned_alone(0), learned_alone(1)]
