"""Direction, mask and steered logits, against the explicit Jacobian and by their properties."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from svd_lightning.functional import (
    confidence_mask,
    jacobian_product,
    kl_divergence,
    kl_gradient,
    log_probabilities,
    log_ratio,
    steer,
)
from tests.functional import reference
from tests.functional.strategies import alphas, examples, models, shifts, strengths

CASES = list(reference.cases())
DIRECTIONS = pytest.mark.parametrize("direction", [kl_gradient, log_ratio])


@pytest.mark.parametrize(
    ("dtype", "wide", "tolerance"),
    [
        (torch.float64, torch.float64, 1e-12),
        (torch.float32, torch.float32, 2e-6),
        (torch.bfloat16, torch.float32, 2e-6),
        (torch.float16, torch.float32, 2e-6),
    ],
    ids=str,
)
def test_direction_equals_the_explicit_jacobian_in_every_dtype(dtype, wide, tolerance):
    for case in CASES:
        tuned, base = torch.tensor(case.tuned).to(dtype), torch.tensor(case.base).to(dtype)
        expected = reference.direction(tuned.double().numpy(), base.double().numpy())
        direction = kl_gradient(tuned, base)
        assert direction.dtype == log_ratio(tuned, base).dtype == wide
        scale = 1.0 + (tuned.double() - base.double()).abs().max().item()
        np.testing.assert_allclose(direction, expected, rtol=0, atol=tolerance * scale)


def test_mask_and_steered_distribution_equal_the_reference():
    for case in CASES:
        tuned, base = torch.tensor(case.tuned), torch.tensor(case.base)
        mask = confidence_mask(tuned, case.alpha)
        steered = steer(tuned, kl_gradient(tuned, base), mask, strength=case.strength, penalty=case.penalty)
        np.testing.assert_array_equal(mask, reference.mask(case.tuned, case.alpha))
        np.testing.assert_allclose(
            steered.log_softmax(-1), reference.steered_log_probs(case), rtol=1e-11, atol=1e-11
        )


def test_direction_is_the_gradient_of_kl_with_respect_to_the_tuned_logits():
    for case in CASES:
        tuned, base = torch.tensor(case.tuned, requires_grad=True), torch.tensor(case.base)
        (gradient,) = torch.autograd.grad(kl_divergence(tuned, base), tuned)
        torch.testing.assert_close(kl_gradient(tuned.detach(), base), gradient, rtol=1e-11, atol=1e-13)


def test_jacobian_product_equals_the_jacobian_of_softmax():
    generator = torch.Generator().manual_seed(1)
    logits, vector = torch.randn(2, 7, generator=generator, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda z: z.softmax(-1), logits)
    torch.testing.assert_close(jacobian_product(log_probabilities(logits), vector), jacobian @ vector)


@given(models())
@examples
def test_direction_sums_to_zero(pair):
    assert kl_gradient(*pair).sum().abs() < 1e-12


@DIRECTIONS
@given(pair=models(), shift=shifts)
@examples
def test_direction_vanishes_where_the_models_agree(direction, pair, shift):
    tuned, _ = pair
    assert direction(tuned, tuned + shift).abs().max() < 1e-12


@DIRECTIONS
@given(pair=models(forbid=True), a=shifts, b=shifts)
@examples
def test_direction_is_finite_and_blind_to_shifts(direction, pair, a, b):
    tuned, base = pair
    d = direction(tuned, base)
    assert torch.isfinite(d).all()
    torch.testing.assert_close(direction(tuned + a, base + b), d, rtol=1e-9, atol=1e-9)


@given(models(limit=8.0))
@examples
def test_small_step_along_the_direction_leaves_the_base_behind(pair):
    tuned, base = pair
    d = kl_gradient(tuned, base)
    assume(d.square().sum() > 1e-6)
    here = kl_divergence(tuned, base)
    assert kl_divergence(tuned + 1e-4 * d, base) > here > kl_divergence(tuned - 1e-4 * d, base)


@given(models(forbid=True), alphas, alphas)
@examples
def test_masks_nest_and_hold_the_argmax(pair, first, second):
    for logits in pair:
        narrow, wide = (confidence_mask(logits, alpha) for alpha in sorted((first, second), reverse=True))
        assert (wide | ~narrow).all()
        assert narrow[logits.argmax()]
        assert not wide[logits == -math.inf].any()


@given(models(forbid=True), alphas, strengths)
@examples
def test_infinite_penalty_forbids_and_never_gives_nan(pair, alpha, strength):
    tuned, base = pair
    mask = confidence_mask(tuned, alpha)
    for forbidden in (base, torch.where(mask, -math.inf, base)):
        if forbidden.isneginf().all():
            continue
        d = kl_gradient(tuned, forbidden)
        p = steer(tuned, d, mask, strength=strength, penalty=-math.inf).softmax(-1)
        assert not p.isnan().any()
        assert (p[~mask] == 0.0).all()
        assert p.sum().item() == pytest.approx(1.0)


@given(models(), alphas)
@examples
def test_no_strength_and_no_penalty_is_the_tuned_model(pair, alpha):
    tuned, base = pair
    d = kl_gradient(tuned, base)
    for mask in (None, confidence_mask(tuned, alpha)):
        assert torch.equal(steer(tuned, d, mask, strength=0.0, penalty=0.0), tuned)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def test_steer_returns_wide_logits_and_takes_tensor_strengths(dtype):
    tuned, direction = torch.zeros(2, 3, dtype=dtype), torch.ones(2, 3)
    strength = torch.tensor([[1.0], [-2.0]])
    steered = steer(tuned, direction, None, strength=strength, penalty=-math.inf)
    assert steered.dtype == torch.promote_types(dtype, torch.float32)
    assert steered.tolist() == [[1.0] * 3, [-2.0] * 3]


@pytest.mark.parametrize("penalty", [0.0, -2.0, -math.inf])
def test_several_directions_act_together_and_the_penalty_once(penalty):
    tuned, *directions = torch.randn(4, 5, 11, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    of_position = torch.linspace(-1.0, 1.0, 5, dtype=torch.float64).unsqueeze(-1)
    mask = confidence_mask(tuned, 0.1)
    steered = steer(tuned, iter(directions), mask, strength=(2.0, of_position, -0.5), penalty=penalty)
    moved = tuned + 2.0 * directions[0] + of_position * directions[1] - 0.5 * directions[2]
    torch.testing.assert_close(steered, torch.where(mask, moved, tuned + penalty))
    with pytest.raises(ValueError, match="zip"):
        steer(tuned, directions, mask, strength=(1.0, 2.0), penalty=penalty)


@pytest.mark.parametrize("alpha", [0.5, 0.1, 1e-3])
def test_mask_is_sharp_at_its_threshold(alpha):
    near = math.log(alpha) + torch.tensor([1e-4, -1e-4])
    for dtype in (torch.float32, torch.float64):
        assert confidence_mask(torch.cat([torch.zeros(1), near]).to(dtype), alpha).tolist() == [True, True, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_mask_of_narrow_logits_is_the_mask_of_their_exact_values(dtype):
    logits = 3.0 * torch.randn(200, 257, generator=torch.Generator().manual_seed(3)).to(dtype)
    for alpha in (0.5, 0.1, 0.01):
        assert torch.equal(confidence_mask(logits, alpha), confidence_mask(logits.double(), alpha))


@given(st.one_of(st.floats(max_value=0.0), st.floats(min_value=1.0, exclude_min=True), st.just(math.nan)))
@examples
def test_mask_refuses_alpha_outside_its_range(alpha):
    with pytest.raises(ValueError, match=r"alpha: expected a number in \(0, 1\]"):
        confidence_mask(torch.zeros(2), alpha)
