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
    objective_terms,
    steer,
    strength_terms,
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


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 2e-6), (torch.bfloat16, 2e-6), (torch.float16, 2e-6)],
    ids=str,
)
def test_terms_equal_the_reference_in_every_dtype(dtype, tolerance):
    for case in CASES:
        tuned = torch.tensor(case.tuned).to(dtype)
        widened = tuned.double().numpy()
        direction = reference.direction(widened, case.base) * reference.mask(widened, case.alpha)
        wide = torch.promote_types(dtype, torch.float32)
        terms = strength_terms(tuned, torch.tensor(direction).to(wide), torch.tensor(case.label))
        assert {term.dtype for term in terms} == {wide}
        expected = reference.terms(widened, direction, case.label)
        for got, want, scale in zip(terms, expected, (1.0, *expected[1:]), strict=True):
            assert got.item() == pytest.approx(want, rel=2 * tolerance, abs=tolerance * (1e-3 + scale))


def test_slope_and_curvature_at_the_tuned_model_equal_autograd():
    """Theorem 2 of the paper: dK/dμ at 0 is ⟨p − e_y, d⟩; the curvature is the variance of d."""
    for case in CASES:
        tuned, direction = torch.tensor(case.tuned), kl_gradient(torch.tensor(case.tuned), torch.tensor(case.base))
        strength = torch.zeros((), dtype=torch.float64, requires_grad=True)
        nll = -steer(tuned, direction, None, strength=strength, penalty=0.0).log_softmax(-1)[case.label]
        (slope,) = torch.autograd.grad(nll, strength, create_graph=True)
        (curvature,) = torch.autograd.grad(slope, strength)
        terms = strength_terms(tuned, direction, torch.tensor(case.label))
        torch.testing.assert_close(slope.detach(), -terms.inner, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(curvature, terms.variance, rtol=1e-9, atol=1e-12)


def problem(k, *, alpha, penalty, seed=0, tokens=6, size=13):
    """Steered logits as a function of k strengths, with the directions and labels behind it."""
    generator = torch.Generator().manual_seed(seed)
    tuned = 2.0 * torch.randn(tokens, size, generator=generator, dtype=torch.float64)
    directions = torch.randn(k, tokens, size, generator=generator, dtype=torch.float64)
    labels = torch.randint(size, (tokens,), generator=generator)
    mask = None if alpha is None else confidence_mask(tuned, alpha)
    if mask is not None:
        directions = directions * mask
        labels = tuned.argmax(-1) if penalty == -math.inf else labels

    def logits(strengths):
        return steer(tuned, tuple(directions), mask, strength=strengths.unbind(), penalty=penalty)

    return logits, directions, labels


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize(("alpha", "penalty"), [(None, 0.0), (0.1, 0.0), (0.1, -2.0), (0.1, -math.inf)])
def test_objective_equals_autograd(k, alpha, penalty):
    logits, directions, labels = problem(k, alpha=alpha, penalty=penalty)

    def objective(strengths):
        return torch.nn.functional.cross_entropy(logits(strengths), labels, reduction="none")

    at = torch.linspace(-1.0, 1.5, k, dtype=torch.float64)
    terms = objective_terms(logits(at), directions, labels)
    torch.testing.assert_close(terms.nll, objective(at))
    torch.testing.assert_close(terms.gradient, torch.autograd.functional.jacobian(objective, at))
    for token, hessian in enumerate(terms.hessian):
        expected = torch.autograd.functional.hessian(lambda mu, token=token: objective(mu)[token], at)
        torch.testing.assert_close(hessian, expected)
    assert (torch.linalg.eigvalsh(terms.hessian) > -1e-12).all()


def test_objective_of_each_token_as_if_alone():
    logits, directions, labels = problem(2, alpha=0.1, penalty=-1.0)
    z = logits(torch.tensor([0.3, -0.4], dtype=torch.float64))
    whole = objective_terms(z, directions, labels)
    parts = [objective_terms(z[s], directions[:, s], labels[s]) for s in (slice(0, 1), slice(1, 6), slice(6, 6))]
    for every, *pieces in zip(whole, *parts, strict=True):
        torch.testing.assert_close(torch.cat(pieces), every)


def test_objective_is_float64_whatever_comes_in():
    logits, directions, labels = problem(2, alpha=None, penalty=0.0)
    z = logits(torch.zeros(2, dtype=torch.float64))
    terms = objective_terms(z.bfloat16(), directions.float(), labels)
    assert {term.dtype for term in terms} == {torch.float64}
    torch.testing.assert_close(terms.nll, objective_terms(z, directions, labels).nll, rtol=0.02, atol=0.0)


def test_forbidden_label_costs_infinity_and_spoils_no_derivative():
    terms = objective_terms(
        torch.tensor([[0.0, 1.0, -math.inf]]), torch.tensor([[[1.0, 2.0, 0.0]]]), torch.tensor([2])
    )
    assert terms.nll == math.inf
    assert torch.isfinite(terms.gradient).all()
    assert torch.isfinite(terms.hessian).all()


@given(st.integers(1, 3), st.integers(0, 50), st.data())
@examples
def test_objective_is_jointly_convex(k, seed, data):
    masks = st.sampled_from([(None, 0.0), (0.1, -1.0), (0.3, -math.inf)])
    alpha, penalty = data.draw(masks)
    logits, directions, labels = problem(k, alpha=alpha, penalty=penalty, seed=seed)
    ends = [
        torch.tensor(data.draw(st.lists(strengths, min_size=k, max_size=k)), dtype=torch.float64) for _ in range(2)
    ]
    t = data.draw(st.floats(0.0, 1.0))

    def value(at):
        return objective_terms(logits(at), directions, labels).nll.sum().item()

    chord = (1 - t) * value(ends[0]) + t * value(ends[1])
    assert value((1 - t) * ends[0] + t * ends[1]) <= chord + 1e-9 * (1 + chord)


@given(models(forbid=True), st.floats(1e-3, 1.0), st.data())
@examples
def test_terms_are_finite_and_the_curvature_is_not_negative(pair, alpha, data):
    tuned, base = pair
    direction = kl_gradient(tuned, base) * confidence_mask(tuned, alpha)
    label = data.draw(st.integers(0, len(tuned) - 1))
    terms = strength_terms(tuned, direction, torch.tensor(label))
    assert all(torch.isfinite(term) for term in terms)
    assert terms.variance >= 0.0
    assert terms.sq_norm >= 0.0


def test_terms_keep_any_leading_shape():
    generator = torch.Generator().manual_seed(2)
    tuned, direction = torch.randn(2, 2, 3, 5, generator=generator)
    labels = torch.randint(5, (2, 3), generator=generator)
    terms = strength_terms(tuned, direction, labels)
    for i in range(2):
        for j in range(3):
            alone = strength_terms(tuned[i, j], direction[i, j], labels[i, j])
            for whole, single in zip(terms, alone, strict=True):
                torch.testing.assert_close(whole[i, j], single)
