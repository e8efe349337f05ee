"""The line search against scipy on the whole vocabulary, and on data without an ordinary optimum."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar

from svd_lightning.strength import Fixed, LineSearch, Mean, Median, Newton, Sequence, TrimmedMean
from tests.functional.strategies import examples
from tests.objective import reference
from tests.strength.objectives import masked, streamed

KL, NATURAL, TEMPERATURE = reference.RULES
CHOICES = [
    (KL,),
    (NATURAL,),
    (TEMPERATURE,),
    (KL, TEMPERATURE),
    (NATURAL, TEMPERATURE),
    (KL, NATURAL, TEMPERATURE),
]
EVERY_CHOICE = pytest.mark.parametrize(
    "rules", CHOICES, ids=lambda rules: "+".join(type(r).__name__ for r in rules)
)
RECIPES = [{"alpha": 0.1, "penalty": -math.inf}, {"alpha": 0.1, "penalty": 0.0}, {"alpha": None, "penalty": 0.0}]
EVERY_RECIPE = pytest.mark.parametrize("recipe", RECIPES, ids=["forbid", "silence", "unmasked"])
COUNT = 90


def objective(data, rules, recipe):
    return streamed(data, rules) if recipe["alpha"] is None else masked(data, rules, penalty=recipe["penalty"])


def nll_of(objective, strengths):
    return objective.evaluate(torch.tensor(strengths, dtype=torch.float64)).nll


def separable():
    """The label is the top token everywhere: sharpening never stops helping."""
    data = reference.tokens(spread=0.3)
    data.labels[:] = data.tuned.argmax(-1)
    return data


@EVERY_CHOICE
@EVERY_RECIPE
def test_finds_what_scipy_finds(rules, recipe):
    data = reference.tokens(COUNT)

    def expected(strengths):
        """K and its gradient by autograd over the whole vocabulary."""
        nll, gradient, _ = reference.evaluate(torch.tensor(strengths, dtype=torch.float64), data, rules, **recipe)
        return nll.item(), gradient.numpy()

    found = LineSearch()(objective(data, rules, recipe))
    assert found.warning is None
    assert np.abs(expected(list(found.strengths))[1]).max() < 1e-6
    if len(rules) == 1:
        best = minimize_scalar(lambda mu: expected([mu])[0], bounds=(-99.0, 99.0), options={"xatol": 1e-9})
        assert found.strengths == pytest.approx([best.x], rel=1e-4, abs=1e-4)
    else:
        best = minimize(expected, np.zeros(len(rules)), jac=True, method="BFGS", options={"gtol": 1e-8})
        assert found.strengths == pytest.approx(best.x, rel=1e-3, abs=1e-3)
    assert nll_of(objective(data, rules, recipe), found.strengths) == pytest.approx(best.fun, abs=1e-11)


@EVERY_RECIPE
def test_ends_on_the_bound_and_says_so(recipe):
    data = separable()
    found = LineSearch(bound=2.5)(objective(data, (TEMPERATURE,), recipe))
    assert found.strengths == (2.5,)
    assert "ended on its bound |μ| ≤ 2.5" in found.warning


def test_one_direction_on_the_bound_leaves_the_other_optimal():
    data = reference.tokens(COUNT)
    free = LineSearch()(masked(data, (KL, TEMPERATURE)))
    bound = 0.5 * max(map(abs, free.strengths))
    assert min(map(abs, free.strengths)) < bound
    problem = masked(data, (KL, TEMPERATURE))
    found = LineSearch(bound=bound)(problem)
    sides = [(-bound, bound)] * 2
    best = minimize(
        lambda mu: nll_of(problem, mu), np.zeros(2), bounds=sides, options={"ftol": 1e-15, "gtol": 1e-9}
    )
    assert found.strengths == pytest.approx(best.x, abs=1e-4)
    assert "ended on its bound" in found.warning


@pytest.mark.parametrize("rules", [(TEMPERATURE,), (KL, TEMPERATURE), (KL, NATURAL, TEMPERATURE)])
@EVERY_RECIPE
def test_separable_labels_carry_a_warning(rules, recipe):
    problem = objective(separable(), rules, recipe)
    found = LineSearch()(problem)
    assert found.warning
    assert all(map(math.isfinite, found.strengths))
    assert nll_of(problem, found.strengths) < nll_of(problem, [0.0] * len(rules))


@pytest.mark.parametrize("budget", [1e-6, 0.01, 0.1])
@EVERY_RECIPE
def test_stays_within_its_budget_of_divergence(budget, recipe):
    problem = objective(reference.tokens(COUNT), (KL, TEMPERATURE), recipe)
    free, found = LineSearch()(problem), LineSearch(kl_budget=budget)(problem)
    moved = problem.divergence(torch.tensor(found.strengths, dtype=torch.float64))
    if problem.divergence(torch.tensor(free.strengths, dtype=torch.float64)) <= budget:
        assert found == free
    else:
        assert moved == pytest.approx(budget, rel=1e-6)
        assert "more than" in found.warning
        assert "nats (KL)" in found.warning
    assert nll_of(problem, found.strengths) <= nll_of(problem, [0.0, 0.0])


@pytest.mark.parametrize("start", [[0.0, 0.0], [50.0, -3.0], [-1e4, 1e4]])
def test_where_it_starts_does_not_matter(start):
    data = reference.tokens(COUNT)
    problem = masked(data, (KL, TEMPERATURE))
    begun = problem.counting(data.example.unique(), start=torch.tensor(start, dtype=torch.float64))
    found, expected = LineSearch()(begun), LineSearch()(problem)
    assert found.warning is None
    assert found.strengths == pytest.approx(expected.strengths, rel=1e-4)


@EVERY_RECIPE
@pytest.mark.parametrize("rules", [(KL, KL), (NATURAL, TEMPERATURE, NATURAL)])
def test_collinear_rules_share_one_optimum(rules, recipe):
    data = reference.tokens(COUNT)
    twice, once = (objective(data, which, recipe) for which in (rules, rules[:-1]))
    found = LineSearch()(twice)
    assert found.warning is None
    assert nll_of(twice, found.strengths) == pytest.approx(nll_of(once, LineSearch()(once).strengths), abs=1e-10)


@pytest.mark.parametrize("rules", [(KL,), (NATURAL, KL)])
@EVERY_RECIPE
def test_constant_objective(rules, recipe):
    data = reference.tokens()
    data.base[:] = data.tuned
    assert LineSearch()(objective(data, rules, recipe)).strengths == (0.0,) * len(rules)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
@pytest.mark.parametrize("rules", [(KL,), (NATURAL,), (NATURAL, TEMPERATURE)])
def test_does_not_care_how_far_apart_the_models_are(rules, scale):
    """Directions far from unit size: the strengths scale, the optimum does not suffer."""
    data = reference.tokens(COUNT)
    data.base[:] = data.tuned + scale * (data.base - data.tuned)
    problem = masked(data, rules)
    found = LineSearch(bound=1e6, kl_budget=1e6)(problem)
    assert found.warning is None
    slopes = problem.evaluate(torch.tensor(found.strengths, dtype=torch.float64)).gradient
    assert slopes.abs().max() < 1e-6


def test_a_base_that_forbids_tokens():
    data = reference.tokens(COUNT)
    data.base[:, ::4] = -math.inf
    for rules in CHOICES:
        problem = masked(data, rules, penalty=0.0)
        found = LineSearch()(problem)
        assert found.warning is None, (rules, found)
        assert nll_of(problem, found.strengths) <= nll_of(problem, [0.0] * len(rules))


@given(
    st.integers(0, 10_000),
    st.floats(0.1, 6.0),
    st.sampled_from(RECIPES),
    st.sampled_from(CHOICES),
    st.floats(-5, 5),
)
@examples
def test_nothing_beats_it(seed, spread, recipe, rules, guess):
    data = reference.tokens(12, 7, seed=seed, spread=spread)
    data.labels[0] = data.tuned[0].argmax()  # at least one label is covered
    problem = objective(data, rules, recipe)
    search = LineSearch(bound=300.0, kl_budget=1e9)
    best = nll_of(problem, search(problem).strengths)
    others = [Fixed([0.0] * len(rules)), Fixed([guess] * len(rules))]
    if len(rules) == 1:
        others += [Mean(), Median(), TrimmedMean(), Sequence(), Newton()]
    for other in others:
        strengths = [min(max(mu, -search.bound), search.bound) for mu in other(problem).strengths]
        assert best <= nll_of(problem, strengths) + 1e-6


@given(st.integers(0, 10_000), st.floats(0.1, 6.0), st.sampled_from(RECIPES))
@examples
def test_more_rules_are_never_worse_on_calibration(seed, spread, recipe):
    data = reference.tokens(12, 7, seed=seed, spread=spread)
    data.labels[0] = data.tuned[0].argmax()
    best = {}
    for rules in CHOICES:
        problem = objective(data, rules, recipe)
        search = LineSearch(bound=300.0, kl_budget=1e9, tolerance=1e-9)  # a slope of it over |μ| ≤ 300 is little
        best[rules] = nll_of(problem, search(problem).strengths)
    for few in CHOICES:
        for many in CHOICES:
            if set(few) < set(many):
                assert best[many] <= best[few] + 1e-6
