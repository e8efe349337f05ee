import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from svd_lightning.errors import InputError
from svd_lightning.functional import confidence_mask
from svd_lightning.steering import KLGradient, NaturalGradient, Steering, Temperature
from tests.functional import reference
from tests.functional.strategies import alphas, examples, models, strengths

EVERY_RULE = (KLGradient(), NaturalGradient(), Temperature())
TUNED, BASE = torch.tensor([3.0, 1.0, 0.0, -4.0]), torch.tensor([0.0, 1.0, -1.0, 2.0])


def test_the_papers_recipe_equals_the_reference():
    for case in reference.cases():
        steering = Steering(strengths=[case.strength], alpha=case.alpha, penalty=case.penalty)
        steered = steering(torch.tensor(case.tuned), torch.tensor(case.base))
        np.testing.assert_allclose(
            steered.log_softmax(-1), reference.steered_log_probs(case), rtol=1e-11, atol=1e-11
        )


def test_defaults_are_the_papers():
    steering = Steering()
    assert [type(rule) for rule in steering.rules] == [KLGradient]
    assert (steering.alpha, steering.penalty, steering.strengths) == (0.1, -math.inf, None)


def test_rules_act_together():
    """ẑ − z_φ of several rules is the sum of what each does alone."""

    def move(rules, weights):
        return Steering(rules, weights, alpha=None)(TUNED, BASE) - TUNED

    weights = [0.5, -1.5, 2.0]
    alone = sum(move([rule], [weight]) for rule, weight in zip(EVERY_RULE, weights, strict=True))
    torch.testing.assert_close(move(EVERY_RULE, weights), alone)


def test_no_mask_steers_the_whole_vocabulary():
    natural = Steering([NaturalGradient()], [-1.0], alpha=None, penalty=-math.inf)
    torch.testing.assert_close(natural(TUNED, BASE).softmax(-1), BASE.softmax(-1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(4,), (2, 4), (2, 3, 4)])
def test_dtype_and_shape(dtype, shape):
    tuned, base = TUNED.to(dtype).expand(shape), BASE.to(dtype).expand(shape)
    steered = Steering(EVERY_RULE, [1.0, 0.5, 0.1])(tuned, base)
    assert steered.shape == shape
    assert steered.dtype == torch.promote_types(dtype, torch.float32)


@given(models(forbid=True), alphas, st.lists(strengths, min_size=3, max_size=3))
@examples
def test_forbidden_tokens_get_no_probability_and_nothing_is_nan(pair, alpha, weights):
    tuned, base = pair
    mask = confidence_mask(tuned, alpha)
    silent = torch.where(mask, -math.inf, base)
    for forbidden in (base, base if silent.isneginf().all() else silent):
        p = Steering(EVERY_RULE, weights, alpha=alpha)(tuned, forbidden).softmax(-1)
        assert not p.isnan().any()
        assert (p[~mask] == 0.0).all()


@given(models(forbid=True), alphas)
@examples
def test_no_strength_and_no_penalty_is_the_tuned_model(pair, alpha):
    tuned, base = pair
    for limit in (None, alpha):
        assert torch.equal(Steering(EVERY_RULE, [0.0] * 3, alpha=limit, penalty=0.0)(tuned, base), tuned)


@given(models(), alphas, strengths)
@examples
def test_equal_models_leave_the_confident_tokens_as_they_are(pair, alpha, strength):
    tuned, _ = pair
    steered = Steering(strengths=[strength], alpha=alpha)(tuned, tuned + 1.0)
    mask = confidence_mask(tuned, alpha)
    torch.testing.assert_close(steered[mask], tuned[mask])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rules": []}, "steering.rules: expected at least one"),
        ({"alpha": 0.0}, "steering.alpha: expected a number in"),
        ({"alpha": -0.1}, "steering.alpha: expected a number in"),
        ({"alpha": 1.01}, "steering.alpha: expected a number in"),
        ({"alpha": math.nan}, "steering.alpha: expected a number in"),
        ({"penalty": 0.5}, "steering.penalty: expected λ ≤ 0"),
        ({"penalty": math.inf}, "steering.penalty: expected λ ≤ 0"),
        ({"penalty": math.nan}, "steering.penalty: expected λ ≤ 0"),
        ({"strengths": [math.nan]}, "steering.strengths: expected finite numbers"),
        ({"strengths": [math.inf]}, "steering.strengths: expected finite numbers"),
        ({"strengths": []}, "steering.strengths: expected one per rule"),
        ({"strengths": [1.0, 2.0]}, r"steering.strengths: expected one per rule \(KLGradient\), got 2"),
    ],
    ids=str,
)
def test_bad_input_is_named_in_one_line(arguments, message):
    with pytest.raises(InputError, match=message) as error:
        Steering(**arguments)
    assert "\n" not in str(error.value)


def test_uncalibrated_steering_says_how_to_calibrate():
    steering = Steering()
    assert not steering.calibrated
    with pytest.raises(InputError, match="not calibrated yet"):
        steering(TUNED, BASE)


def test_recipes_are_immutable_and_copied():
    steering = Steering()
    calibrated = steering.with_strengths([torch.tensor(2.0)])
    assert calibrated.strengths == (2.0,)
    assert calibrated.calibrated
    assert not steering.calibrated
    assert calibrated.with_penalty(0.0).penalty == 0.0
    assert calibrated.with_penalty(0.0).strengths == (2.0,)
    with pytest.raises(FrozenInstanceError):
        steering.alpha = 0.5
    with pytest.raises(InputError, match="finite"):
        steering.with_strengths([math.nan])
