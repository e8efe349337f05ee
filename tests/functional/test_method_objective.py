"""The terms of a strength and K with its derivatives, against the reference, autograd and by their properties."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from svd_lightning.functional import (
    confidence_mask,
    kl_gradient,
    objective_terms,
    steer,
    strength_terms,
)
from tests.functional import reference
from tests.functional.strategies import examples, models, strengths

CASES = list(reference.cases())


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
