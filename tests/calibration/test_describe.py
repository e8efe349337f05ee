"""What strengths achieve against brute force over the whole vocabulary."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from svd_lightning.calibration import describe, outcome
from svd_lightning.steering import Steering
from tests.objective import reference

ALPHA = 0.1
RECIPES = {
    "tuned": (reference.RULES[:1], [0.0]),
    "one": (reference.RULES[:1], [30.0]),
    "backwards": (reference.RULES[1:2], [-0.6]),
    "joint": (reference.RULES, [10.0, 0.5, 0.4]),
}
EVERY_RECIPE = pytest.mark.parametrize(("rules", "strengths"), RECIPES.values(), ids=RECIPES)


def steered_logits(data, rules, strengths, penalty):
    return Steering(rules, strengths, alpha=ALPHA, penalty=penalty)(data.tuned, data.base)


def mean_nll(logits, labels):
    return pytest.approx(cross_entropy(logits, labels).item(), rel=1e-9)


@EVERY_RECIPE
@pytest.mark.parametrize("penalty", [-math.inf, -2.0, 0.0])
def test_every_number(rules, strengths, penalty):
    data = reference.tokens(60)
    found = outcome(reference.table(data, alpha=ALPHA), rules, strengths, penalty=penalty)
    assert found.nll == mean_nll(steered_logits(data, rules, strengths, 0.0), data.labels)
    kept = data[reference.covered(data, ALPHA)] if penalty == -math.inf else data
    assert found.nll_decoded == mean_nll(steered_logits(kept, rules, strengths, penalty), kept.labels)


@EVERY_RECIPE
def test_accuracy_is_that_of_greedy_decoding(rules, strengths):
    data = reference.tokens(60)
    found = outcome(reference.table(data, alpha=ALPHA), rules, strengths, penalty=-math.inf)
    best = steered_logits(data, rules, strengths, -math.inf).argmax(-1)
    assert found.accuracy == (best == data.labels).sum().item() / 60


def test_recipes_differ_in_accuracy():
    table = reference.table(reference.tokens(60), alpha=ALPHA)
    assert len({outcome(table, *recipe, penalty=-math.inf).accuracy for recipe in RECIPES.values()}) > 1


def test_no_covered_label():
    data = reference.tokens(60)
    data.labels[:] = data.tuned.argmin(-1)
    found = outcome(reference.table(data, alpha=ALPHA), reference.RULES[:1], [3.0], penalty=-math.inf)
    assert math.isnan(found.nll_decoded)
    assert math.isfinite(found.nll)
    assert found.accuracy == 0.0


def test_nll_of_the_models_themselves():
    data = reference.tokens(60)
    table = reference.table(data, alpha=ALPHA)
    found = describe(table, Steering(reference.RULES[:1], [3.0], alpha=ALPHA))
    assert found["nll_tuned"] == mean_nll(data.tuned, data.labels)
    assert found["nll_base"] == mean_nll(data.base, data.labels)
    tuned = outcome(table, reference.RULES[:1], [0.0], penalty=-math.inf)
    assert found["nll_tuned"] == pytest.approx(tuned.nll)
    assert (found["nll_decoded_tuned"], found["accuracy_tuned"]) == pytest.approx(
        (tuned.nll_decoded, tuned.accuracy)
    )
    assert torch.isfinite(table.label_log_q).all()
