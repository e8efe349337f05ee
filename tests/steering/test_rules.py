"""What each rule is, beyond what every rule must hold (tests/conformance/test_rules.py)."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from svd_lightning.functional import jacobian_product, kl_divergence, kl_gradient, log_probabilities, log_ratio
from svd_lightning.steering import KLGradient, NaturalGradient, SteeringRule, Temperature, rule_name
from tests.functional.strategies import examples, models

RULES = [KLGradient(), NaturalGradient(), Temperature()]


def direction(rule, tuned, base):
    log_p, log_q = log_probabilities(tuned), log_probabilities(base)
    return rule.direction(log_p, log_q, rule.centre(log_p, log_q).unsqueeze(-1))


@given(models(forbid=True))
@examples
def test_kl_gradient_is_the_functional_one(pair):
    torch.testing.assert_close(direction(KLGradient(), *pair), kl_gradient(*pair), rtol=0, atol=1e-12)


@given(models())
@examples
def test_natural_gradient_is_the_log_ratio_up_to_a_constant(pair):
    d = direction(NaturalGradient(), *pair)
    gap = d - log_ratio(*pair)
    torch.testing.assert_close(gap, -kl_divergence(*pair).expand_as(gap))


@given(models())
@examples
def test_projecting_the_natural_gradient_gives_the_kl_gradient(pair):
    """F = J, so J times the natural gradient is the gradient."""
    projected = jacobian_product(log_probabilities(pair[0]), direction(NaturalGradient(), *pair))
    torch.testing.assert_close(projected, kl_gradient(*pair), rtol=1e-9, atol=1e-11)


@given(models(), st.floats(-0.9, 20.0))
@examples
def test_temperature_rescales_the_tuned_distribution(pair, strength):
    tuned, base = pair
    steered = tuned + strength * direction(Temperature(), tuned, base)
    torch.testing.assert_close(
        steered.log_softmax(-1), ((1 + strength) * tuned).log_softmax(-1), rtol=1e-9, atol=1e-9
    )


@given(models(limit=8.0))
@examples
def test_extrapolating_the_natural_gradient_back_by_one_is_the_base(pair):
    tuned, base = pair
    back = tuned - direction(NaturalGradient(), tuned, base)
    torch.testing.assert_close(back.softmax(-1), base.softmax(-1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rule", [NaturalGradient(), Temperature()], ids=rule_name)
@given(pair=models())
@examples
def test_unprojected_rules_are_centred_under_the_tuned_model(rule, pair):
    d = direction(rule, *pair)
    assert (pair[0].softmax(-1) * d).sum().abs() < 1e-11


@pytest.mark.parametrize("rule", [KLGradient(), NaturalGradient()], ids=rule_name)
@given(pair=models(limit=6.0))
@examples
def test_small_step_along_a_rule_that_knows_the_base_leaves_it_behind(rule, pair):
    tuned, base = pair
    here = kl_divergence(tuned, base)
    assume(here > 1e-3)
    d = direction(rule, tuned, base)
    assume((d * kl_gradient(tuned, base)).sum() > 1e-5)
    assert kl_divergence(tuned + 1e-5 * d, base) > here > kl_divergence(tuned - 1e-5 * d, base)


def test_hand_worked_example():
    """p = (3/4, 1/4) and q = (1/2, 1/2): log(p/q) = (log 3/2, −log 2)."""
    tuned, base = torch.tensor([math.log(3.0), 0.0]), torch.zeros(2)
    log_ratios = torch.tensor([math.log(1.5), -math.log(2.0)])
    kl = 0.75 * math.log(1.5) - 0.25 * math.log(2.0)
    torch.testing.assert_close(direction(NaturalGradient(), tuned, base), log_ratios - kl)
    torch.testing.assert_close(
        direction(KLGradient(), tuned, base), torch.tensor([0.75, 0.25]) * (log_ratios - kl)
    )
    entropy = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    torch.testing.assert_close(direction(Temperature(), tuned, base), torch.tensor([0.75, 0.25]).log() + entropy)


@pytest.mark.parametrize("rule", RULES, ids=rule_name)
def test_rules_satisfy_the_protocol_and_carry_their_name(rule):
    assert isinstance(rule, SteeringRule)
    assert rule_name(rule) == type(rule).__name__
