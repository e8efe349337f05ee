"""The objective on the compact table against the whole vocabulary, `Steering`, cross entropy and autograd."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from svd_lightning.errors import InputError
from svd_lightning.functional import confidence_mask, log_probabilities, objective_terms, steer
from svd_lightning.objective import MaskedObjective, objective
from svd_lightning.steering import Steering, whole_direction
from tests.functional import reference as single
from tests.functional.strategies import examples
from tests.objective import reference

ALPHA = 0.1
CHOICES = [*((rule,) for rule in reference.RULES), reference.RULES[:2], reference.RULES]
EVERY_CHOICE = pytest.mark.parametrize(
    "rules", CHOICES, ids=lambda rules: "+".join(type(r).__name__ for r in rules)
)
PENALTIES = [-math.inf, -2.0, 0.0]
POINTS = [[0.0, 0.0, 0.0], [1.5, 0.4, -0.3], [-3.0, 0.7, 2.0], [40.0, -6.0, 5.0]]
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def masked(data, rules, penalty=-math.inf, alpha=ALPHA):
    return MaskedObjective(reference.table(data, alpha=alpha), rules, penalty=penalty)


def streamed(data, rules, chunk=7):
    return objective(reference.stream(data, chunk=chunk), rules)


def assert_derivatives(problem, data, rules, *, alpha, penalty, close=CLOSE):
    for point in POINTS:
        strengths = double(point[: len(rules)])
        found = problem.evaluate(strengths)
        expected = reference.evaluate(strengths, data, rules, alpha=alpha, penalty=penalty)
        for got, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(torch.as_tensor(got, dtype=torch.float64), wanted, **close)


@EVERY_CHOICE
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("alpha", [0.02, 0.1, 1.0])
def test_masked_value_gradient_and_hessian(rules, penalty, alpha):
    data = reference.tokens()
    problem = masked(data, rules, penalty, alpha)
    assert problem.num_directions == len(rules)
    assert_derivatives(problem, data, rules, alpha=alpha, penalty=penalty)


@EVERY_CHOICE
@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_table_says_what_the_definition_says(rules, penalty):
    data = reference.tokens()
    log_p, log_q = log_probabilities(data.tuned), log_probabilities(data.base)
    mask = confidence_mask(data.tuned, ALPHA)
    directions = [whole_direction(rule, log_p, log_q) * mask for rule in rules]
    kept = reference.covered(data, ALPHA) if penalty == -math.inf else torch.ones(len(data), dtype=torch.bool)
    for point in POINTS:
        strengths = point[: len(rules)]
        steered = steer(data.tuned, directions, mask, strength=strengths, penalty=penalty)
        terms = objective_terms(steered, directions, data.labels)
        found = masked(data, rules, penalty).evaluate(double(strengths))
        for got, wanted in zip(found, terms, strict=True):
            torch.testing.assert_close(torch.as_tensor(got, dtype=torch.float64), wanted[kept].mean(0), **CLOSE)


@EVERY_CHOICE
def test_streamed_value_gradient_and_hessian(rules):
    data = reference.tokens()
    assert streamed(data, rules).num_directions == len(rules)
    assert_derivatives(streamed(data, rules), data, rules, alpha=None, penalty=0.0)


def test_tokens_that_the_base_forbids():
    data = reference.tokens()
    data.base[:, ::3] = -math.inf
    rules = reference.RULES[:1]
    close = {"rtol": 1e-9, "atol": 1e-8}  # squared directions reach 1e7 there
    assert_derivatives(masked(data, rules, 0.0), data, rules, alpha=ALPHA, penalty=0.0, close=close)


@EVERY_CHOICE
@pytest.mark.parametrize(("alpha", "penalty"), [(None, 0.0), *((ALPHA, penalty) for penalty in PENALTIES)])
def test_the_reference_is_what_decoding_does(rules, alpha, penalty):
    data = reference.tokens()
    for point in POINTS:
        steering = Steering(rules, point[: len(rules)], alpha=alpha, penalty=penalty)
        expected = reference.steered_logits(double(point[: len(rules)]), data, rules, alpha=alpha, penalty=penalty)
        steered = steering(data.tuned, data.base)
        torch.testing.assert_close(steered.log_softmax(-1), expected.log_softmax(-1), **CLOSE)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_label_log_probs(penalty):
    data, strengths = reference.tokens(), double([1.5, 0.4, -0.3])
    kept = data[reference.covered(data, ALPHA)] if penalty == -math.inf else data
    expected = reference.label_log_probs(strengths, kept, reference.RULES, alpha=ALPHA, penalty=penalty)
    found = masked(data, reference.RULES, penalty)
    torch.testing.assert_close(found.label_log_probs(strengths), expected, **CLOSE)
    assert found.evaluate(strengths).nll == pytest.approx(-expected.mean().item(), rel=1e-12)
    assert len(expected) == len(found.label_log_probs(strengths))


def test_single_precision_tables_agree():
    data, strengths = reference.tokens(), double([1.5, 0.4, -0.3])
    exact = masked(data, reference.RULES).evaluate(strengths)
    narrow = masked(data.to(torch.float32), reference.RULES).evaluate(strengths)
    for got, wanted in zip(narrow, exact, strict=True):
        torch.testing.assert_close(
            torch.as_tensor(got).double(), torch.as_tensor(wanted).double(), rtol=1e-5, atol=1e-5
        )


def test_a_tiny_mask_threshold_comes_close_to_no_mask():
    data, strengths = reference.tokens(), double([2.0, 0.3, 0.2])
    assert masked(data, reference.RULES, 0.0, alpha=1e-12).evaluate(strengths).nll == pytest.approx(
        streamed(data, reference.RULES).evaluate(strengths).nll, rel=1e-9
    )


def expected_terms(data, rule, alpha):
    """⟨e_y − p, d⟩, ‖d‖² and dᵀJd of every token, with the Jacobian built explicitly."""
    for token in range(len(data)):
        one = data[token]
        log_p, log_q = one.tuned.log_softmax(-1), one.base.log_softmax(-1)
        d = rule.direction(log_p, log_q, rule.centre(log_p, log_q))
        if alpha is not None:
            d = d * confidence_mask(one.tuned, alpha)
        yield single.terms(one.tuned.numpy(), d.numpy(), int(one.labels))


@EVERY_CHOICE
@pytest.mark.parametrize("mask", ["masked", "streamed"])
def test_terms(rules, mask):
    data = reference.tokens()
    problem = masked(data, rules) if mask == "masked" else streamed(data, rules)
    if len(rules) > 1:
        with pytest.raises(InputError, match=f"single rule, got {len(rules)}; use LineSearch"):
            problem.terms()
        return
    expected = double(list(expected_terms(data, rules[0], ALPHA if mask == "masked" else None)))
    for got, wanted in zip(problem.terms(), expected.T, strict=True):
        torch.testing.assert_close(got, wanted, **CLOSE)


def test_terms_are_the_derivatives_at_zero():
    """Theorem 2: the slope of K at μ = 0 is ⟨p − e_y, d⟩; its curvature there is Var_p[d]."""
    data = reference.tokens()
    for problem in (masked(data, reference.RULES[:1], 0.0), streamed(data, reference.RULES[:1])):
        terms, at_zero = problem.terms(), problem.evaluate(double([0.0]))
        assert at_zero.gradient.item() == pytest.approx(-terms.inner.mean().item(), rel=1e-9)
        assert at_zero.hessian.item() == pytest.approx(terms.variance.mean().item(), rel=1e-9)


@pytest.mark.parametrize("penalty", [*PENALTIES, None])
def test_divergence_from_the_unsteered(penalty):
    """Mean KL(p_μ ‖ p_0) over the whole vocabulary, where p_0 has the mask and the penalty but no steering."""
    data, rules = reference.tokens(), reference.RULES
    recipe = {"alpha": None, "penalty": 0.0} if penalty is None else {"alpha": ALPHA, "penalty": penalty}
    kept = data[reference.covered(data, ALPHA)] if penalty == -math.inf else data
    problem = streamed(data, rules) if penalty is None else masked(data, rules, penalty)
    for point in map(double, POINTS):
        log_p, log_0 = (
            reference.steered_logits(s, kept, rules, **recipe).log_softmax(-1) for s in (point, 0 * point)
        )
        expected = torch.where(log_p > -math.inf, log_p.exp() * (log_p - log_0), 0.0).sum(-1).mean().item()
        assert problem.divergence(point) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_sums_over_tokens_add_up(penalty):
    data, strengths = reference.tokens(), double([1.5, 0.4, -0.3])
    whole = masked(data, reference.RULES, penalty).evaluate(strengths)
    total = dict.fromkeys(("nll", "gradient", "hessian"), 0.0)
    count = 0
    for part in (data[:9], data[9:]):
        tokens = int(reference.covered(part, ALPHA).sum()) if penalty == -math.inf else len(part)
        found = masked(part, reference.RULES, penalty).evaluate(strengths)
        total = {field: total[field] + tokens * getattr(found, field) for field in total}
        count += tokens
    for field, value in total.items():
        expected = torch.as_tensor(getattr(whole, field))
        torch.testing.assert_close(torch.as_tensor(value / count), expected, **CLOSE)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_some_examples_alone(penalty):
    """A fold of the objective is the objective of those examples."""
    data, strengths, rules = reference.tokens(), double([1.5]), reference.RULES[:1]
    examples = torch.tensor([0, 3, 4, 7])
    fold = masked(data, rules, penalty).counting(examples, start=double([2.0]))
    alone = masked(data[torch.isin(data.example, examples)], rules, penalty)
    for got, wanted in zip(fold.evaluate(strengths), alone.evaluate(strengths), strict=True):
        torch.testing.assert_close(torch.as_tensor(got), torch.as_tensor(wanted), **CLOSE)
    for got, wanted in zip(fold.terms(), alone.terms(), strict=True):
        torch.testing.assert_close(got, wanted, **CLOSE)
    assert fold.divergence(strengths) == pytest.approx(alone.divergence(strengths))
    assert torch.equal(fold.start, double([2.0]))


def test_chunks_of_the_stream_do_not_matter():
    data, strengths = reference.tokens(), double([1.5, 0.4, -0.3])
    for got, wanted in zip(
        streamed(data, reference.RULES, 1).evaluate(strengths),
        streamed(data, reference.RULES, 24).evaluate(strengths),
        strict=True,
    ):
        torch.testing.assert_close(torch.as_tensor(got), torch.as_tensor(wanted), **CLOSE)


vectors = st.lists(st.floats(-10.0, 10.0), min_size=3, max_size=3).map(double)


@given(st.integers(0, 50), st.floats(0.2, 8.0), st.sampled_from(PENALTIES), vectors, vectors, st.floats(0.0, 1.0))
@examples
def test_convex(seed, spread, penalty, left, right, weight):
    data = reference.tokens(6, 7, seed=seed, spread=spread)
    data.labels[0] = data.tuned[0].argmax()  # at least one label is covered
    for problem in (masked(data, reference.RULES, penalty), streamed(data, reference.RULES)):
        between = problem.evaluate(weight * left + (1.0 - weight) * right)
        ends = problem.evaluate(left).nll, problem.evaluate(right).nll
        chord = weight * ends[0] + (1.0 - weight) * ends[1]
        assert between.nll <= chord + 1e-10 * (1.0 + abs(chord))
        curvatures = torch.linalg.eigvalsh(between.hessian)
        assert curvatures.min() >= -1e-9 * (1.0 + curvatures.max())
        tangent = ends[0] - between.nll - between.gradient @ (left - weight * left - (1.0 - weight) * right)
        assert tangent >= -1e-9 * (1.0 + abs(ends[0]))


def uncovered():
    data = reference.tokens()
    data.labels[:] = data.tuned.argmin(-1)
    return data


def test_no_covered_label_is_refused_with_an_infinite_penalty():
    with pytest.raises(InputError, match=r"no calibration label lies inside the mask at alpha 0\.1"):
        masked(uncovered(), reference.RULES)


def test_no_covered_label_is_fine_with_a_finite_penalty():
    data = uncovered()
    problem = masked(data, reference.RULES, -2.0)
    assert_derivatives(problem, data, reference.RULES, alpha=ALPHA, penalty=-2.0)
