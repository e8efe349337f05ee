import math

import numpy as np
import pytest
import torch
from hypothesis import given
from scipy.special import log_softmax

from svd_lightning.functional import LOG_FLOOR, expectation, kl_divergence, label_nll, log_probabilities
from tests.functional import reference
from tests.functional.strategies import examples, models, shifts

CASES = list(reference.cases())


@pytest.mark.parametrize(
    ("dtype", "wide", "tolerance"),
    [
        (torch.float64, torch.float64, 1e-12),
        (torch.float32, torch.float32, 1e-5),
        (torch.bfloat16, torch.float32, 1e-5),
        (torch.float16, torch.float32, 1e-5),
    ],
    ids=str,
)
def test_equals_the_reference_in_every_dtype(dtype, wide, tolerance):
    for case in CASES:
        tuned, base = torch.tensor(case.tuned).to(dtype), torch.tensor(case.base).to(dtype)
        rounded = tuned.double().numpy(), base.double().numpy()
        divergence = kl_divergence(tuned, base)
        nll = label_nll(tuned, torch.tensor(case.label))
        assert divergence.dtype == nll.dtype == log_probabilities(tuned).dtype == wide
        assert divergence.item() == pytest.approx(reference.kl(*rounded), rel=tolerance, abs=tolerance)
        assert nll.item() == pytest.approx(-log_softmax(rounded[0])[case.label], rel=tolerance, abs=tolerance)
        np.testing.assert_allclose(log_probabilities(tuned), log_softmax(rounded[0]), tolerance, tolerance)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_any_leading_shape(shape):
    generator = torch.Generator().manual_seed(0)
    tuned, base = torch.randn(2, *shape, 11, generator=generator)
    labels = torch.randint(11, shape, generator=generator)
    assert kl_divergence(tuned, base).shape == label_nll(tuned, labels).shape == shape
    rows = zip(tuned.reshape(-1, 11), base.reshape(-1, 11), labels.reshape(-1), strict=True)
    for index, (left, right, label) in enumerate(rows):
        torch.testing.assert_close(kl_divergence(tuned, base).reshape(-1)[index], kl_divergence(left, right))
        torch.testing.assert_close(label_nll(tuned, labels).reshape(-1)[index], label_nll(left, label))


@given(models(forbid=True), shifts, shifts)
@examples
def test_kl_is_finite_not_negative_and_blind_to_shifts(pair, a, b):
    tuned, base = pair
    divergence = kl_divergence(tuned, base)
    assert torch.isfinite(divergence)
    assert divergence >= -1e-12
    torch.testing.assert_close(kl_divergence(tuned + a, base + b), divergence, rtol=1e-10, atol=1e-10)
    assert kl_divergence(tuned, tuned + a).abs() < 1e-12


def test_forbidden_tokens_are_floored_in_ratios_and_infinite_in_nll():
    logits = torch.tensor([0.0, -math.inf])
    assert log_probabilities(logits)[1] == LOG_FLOOR
    assert label_nll(logits, torch.tensor(1)) == math.inf
    assert kl_divergence(torch.zeros(2), logits).item() == pytest.approx(0.5 * -LOG_FLOOR, rel=1e-3)
    assert kl_divergence(logits, torch.zeros(2)).item() == pytest.approx(math.log(2))


def test_expectation_ignores_impossible_tokens():
    log_p = torch.tensor([math.log(0.25), math.log(0.75), LOG_FLOOR])
    assert expectation(log_p, torch.tensor([4.0, 8.0, 1e30])).item() == pytest.approx(7.0)
