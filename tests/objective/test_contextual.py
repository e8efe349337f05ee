"""The objective of contextual strengths against autograd on full logits, and against decoding."""

import math

import pytest
import torch

from svd_lightning.errors import InputError
from svd_lightning.objective import TokenCollector
from svd_lightning.steering import Entropy, KLGradient, Steering, expand, feature_name
from tests.objective import contextual, reference

KL, NATURAL, TEMPERATURE = reference.RULES
CHOICES = [(KL,), (NATURAL, TEMPERATURE)]
RECIPES = [{"alpha": 0.1, "penalty": -math.inf}, {"alpha": 0.1, "penalty": -1.0}, {"alpha": None, "penalty": 0.0}]
EVERY_CHOICE = pytest.mark.parametrize("rules", CHOICES, ids=["one", "two"])
EVERY_RECIPE = pytest.mark.parametrize("recipe", RECIPES, ids=["forbid", "lower", "unmasked"])


def weights(rules, *, seed=0):
    return torch.randn(4 * len(rules), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def objective(data, rules, recipe):
    if recipe["alpha"] is None:
        return contextual.streamed(data, rules)
    return contextual.masked(data, rules, penalty=recipe["penalty"])


@EVERY_CHOICE
@EVERY_RECIPE
def test_value_gradient_and_hessian(rules, recipe):
    data = reference.tokens()
    problem = objective(data, rules, recipe)
    assert problem.num_directions == 4 * len(rules)
    assert problem.contextual.tolist() == [False, True, True, True] * len(rules)
    for w in (0 * weights(rules), weights(rules), 5 * weights(rules, seed=1)):
        found = problem.evaluate(w)
        value, gradient = torch.autograd.functional.vjp(lambda w: contextual.nll(w, data, rules, **recipe), w)
        hessian = torch.autograd.functional.hessian(lambda w: contextual.nll(w, data, rules, **recipe), w)
        assert found.nll == pytest.approx(value.item(), rel=1e-9)
        torch.testing.assert_close(found.gradient, gradient, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(found.hessian, hessian, rtol=1e-8, atol=1e-10)


@EVERY_CHOICE
@EVERY_RECIPE
def test_convex(rules, recipe):
    problem = objective(reference.tokens(), rules, recipe)
    for seed in range(5):
        one, other = 3 * weights(rules, seed=seed), 3 * weights(rules, seed=seed + 50)
        ends = problem.evaluate(one).nll, problem.evaluate(other).nll
        assert problem.evaluate((one + other) / 2).nll <= sum(ends) / 2 + 1e-12
        assert torch.linalg.eigvalsh(problem.evaluate(one).hessian).min() > -1e-10


@EVERY_CHOICE
def test_decoding_gives_the_labels_what_the_table_says(rules):
    data, w = reference.tokens(), weights(rules)
    steering = Steering(rules, w.tolist(), penalty=-1.0, features=contextual.FEATURES)
    decoded = steering(data.tuned, data.base).log_softmax(-1).gather(-1, data.labels[:, None]).squeeze(-1)
    torch.testing.assert_close(contextual.masked(data, rules, penalty=-1.0).label_log_probs(w), decoded)


def test_the_table_holds_the_features():
    data = reference.tokens()
    found = contextual.table(data, reference.RULES)
    assert found.rule_names[3:] == tuple(map(feature_name, contextual.FEATURES))
    torch.testing.assert_close(found.centres[:, 3:], contextual.feature_values(data)[:, 1:])
    for smaller in (found.narrow(0.5), found.select(found.example < 3)):
        assert torch.equal(smaller.centres, found.centres[: smaller.num_tokens])


def test_a_feature_that_the_table_does_not_know_is_refused():
    without = reference.table(reference.tokens())
    with pytest.raises(InputError, match="knows KLGradient, NaturalGradient, Temperature, got Entropy"):
        without.directions(expand([KL], [Entropy()]))


def test_a_feature_of_a_rule_s_name_is_refused():
    twin = type("KLGradient", (Entropy,), {})()
    with pytest.raises(InputError, match="other names than the rules', got KLGradient"):
        TokenCollector([KLGradient()], features=[twin])
