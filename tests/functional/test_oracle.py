"""Agreement with the project's oracle, where a checkout has it beside the repository."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from svd_lightning.functional import confidence_mask, kl_divergence, kl_gradient, steer, strength_terms

ORACLE = Path(__file__).parents[3] / "shared" / "oracle" / "steering_cases.json"
EPSILON = 1e-12
pytestmark = pytest.mark.skipif(not ORACLE.exists(), reason=f"no oracle beside the repository ({ORACLE})")


@pytest.fixture(scope="module")
def oracle():
    return json.loads(ORACLE.read_text())


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def masked_terms(case):
    tuned, base = double(case["tuned_logits"]), double(case["base_logits"])
    direction = kl_gradient(tuned, base) * confidence_mask(tuned, case["alpha"])
    return strength_terms(tuned, direction, torch.tensor(case["label"]))


def test_every_case(oracle):
    assert oracle["cases"]
    for case in oracle["cases"]:
        tuned, base = double(case["tuned_logits"]), double(case["base_logits"])
        direction, mask = kl_gradient(tuned, base), confidence_mask(tuned, case["alpha"])
        assert kl_divergence(tuned, base).item() == pytest.approx(case["kl"], abs=1e-12)
        np.testing.assert_allclose(direction, case["steering_vector"], rtol=1e-9, atol=1e-13)
        assert mask.tolist() == case["mask"]
        steered = steer(tuned, direction, mask, strength=case["strength"], penalty=case["penalty"])
        np.testing.assert_allclose(steered.log_softmax(-1), case["steered_log_probs"], rtol=1e-10, atol=1e-10)


def test_every_strength(oracle):
    for case in oracle["cases"]:
        terms = masked_terms(case)
        for name in ("inner", "sq_norm", "variance"):
            assert getattr(terms, name).item() == pytest.approx(case[name], rel=1e-9, abs=1e-14)
        informative = terms.sq_norm.item() >= EPSILON
        assert informative == (case["strength_gauss_newton"] is not None) == (case["strength_newton"] is not None)
        if informative:
            for name, curvature in (("gauss_newton", terms.sq_norm), ("newton", terms.variance)):
                strength = (terms.inner / (curvature + EPSILON)).item()
                assert strength == pytest.approx(case[f"strength_{name}"], rel=1e-9)


def test_estimators(oracle):
    expected = oracle["estimators"]
    every = [masked_terms(case) for case in oracle["cases"]]
    kept = [terms for terms in every if terms.sq_norm >= EPSILON]
    inner, sq_norm, variance = (torch.stack(column) for column in zip(*kept, strict=True))
    single = (inner / (sq_norm + EPSILON)).numpy()
    assert len(every) - len(kept) == expected["skipped"]
    assert single.mean() == pytest.approx(expected["mean"], rel=1e-9)
    assert np.median(single) == pytest.approx(expected["median"], rel=1e-9)
    assert (inner.sum() / (sq_norm.sum() + EPSILON)).item() == pytest.approx(expected["sequence"], rel=1e-9)
    assert (inner.sum() / (variance.sum() + EPSILON)).item() == pytest.approx(expected["newton"], rel=1e-9)
