"""What each feature is, beyond what all must hold (tests/conformance/test_features.py), and strengths on them."""

import math

import pytest
import torch

from svd_lightning.errors import InputError
from svd_lightning.functional import confidence_mask, log_probabilities
from svd_lightning.steering import (
    Agreement,
    Contextual,
    Divergence,
    Entropy,
    KLGradient,
    Steering,
    Temperature,
    expand,
    rule_name,
    whole_direction,
)

TUNED = torch.tensor([[3.0, 1.0], [0.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
BASE = torch.tensor([[1.0, 3.0], [0.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
RULES, FEATURES = (KLGradient(), Temperature()), (Entropy(), Divergence(), Agreement())
WEIGHTS = (2.0, 0.5, -1.0, 0.25, 0.1, 0.2, 0.3, -0.4)


def value(feature):
    return feature.value(log_probabilities(TUNED), log_probabilities(BASE)).tolist()


def test_entropy_is_a_share_of_its_maximum():
    p = 1 / (1 + math.exp(-2.0))
    expected = -(p * math.log(p) + (1 - p) * math.log(1 - p)) / math.log(2)
    assert value(Entropy())[:2] == pytest.approx([expected, 1.0])


def test_divergence_is_squeezed():
    p = 1 / (1 + math.exp(-2.0))
    kl = (2 * p - 1) * 2.0  # log-ratios of ±2
    assert value(Divergence()) == pytest.approx([kl / (1 + kl), 0.0, 0.0])


def test_agreement_of_the_first_ranks():
    assert value(Agreement()) == [0.0, 1.0, 1.0]


def test_a_tie_agrees_with_either():
    log_p = log_probabilities(torch.tensor([2.0, 2.0, 0.0]))
    for first in (0, 1, 2):
        log_q = log_probabilities(torch.nn.functional.one_hot(torch.tensor(first), 3).double())
        assert Agreement().value(log_p, log_q).item() == float(first < 2)


def logits(*shape):
    tuned, noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return 2 * tuned, 2 * tuned + noise


def test_directions_are_in_the_order_of_the_strengths():
    assert [rule_name(rule) for rule in Steering(RULES, features=FEATURES[:2]).directions] == [
        "KLGradient",
        "KLGradient.Entropy",
        "KLGradient.Divergence",
        "Temperature",
        "Temperature.Entropy",
        "Temperature.Divergence",
    ]
    assert expand(RULES, ()) == Steering(RULES).directions == RULES


@pytest.mark.parametrize("penalty", [-math.inf, -2.0, 0.0])
def test_every_position_has_a_strength_of_its_own(penalty):
    """ẑ at a position is the plain steering's with the strengths Σ_j w_kj f_j of that position."""
    tuned, base = logits(4, 5, 11)
    steering = Steering(RULES, WEIGHTS, penalty=penalty, features=FEATURES)
    found = steering(tuned, base)
    for i in range(4):
        for j in range(5):
            one = log_probabilities(tuned[i, j]), log_probabilities(base[i, j])
            f = [1.0, *(feature.value(*one).item() for feature in FEATURES)]
            strengths = [sum(w * x for w, x in zip(WEIGHTS[at : at + 4], f, strict=True)) for at in (0, 4)]
            plain = Steering(RULES, strengths, penalty=penalty)(tuned[i, j], base[i, j])
            torch.testing.assert_close(found[i, j], plain, rtol=1e-11, atol=1e-11)


def test_is_a_sum_over_its_directions():
    tuned, base = logits(6, 11)
    log_p, log_q = log_probabilities(tuned), log_probabilities(base)
    steering = Steering(RULES, WEIGHTS, penalty=0.0, features=FEATURES)
    moved = sum(w * whole_direction(d, log_p, log_q) for w, d in zip(WEIGHTS, steering.directions, strict=True))
    expected = torch.where(confidence_mask(tuned, 0.1), tuned + moved, tuned)
    torch.testing.assert_close(steering(tuned, base), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_no_weight_on_the_features_is_the_plain_steering(dtype):
    tuned, base = (z.to(dtype) for z in logits(3, 4, 11))
    without = Steering(RULES, (2.0, 0.1), features=())(tuned, base)
    assert torch.equal(Steering(RULES, (2.0, 0, 0, 0, 0.1, 0, 0, 0), features=FEATURES)(tuned, base), without)


def test_the_number_of_strengths():
    with pytest.raises(
        InputError, match=r"one per rule and one per rule and feature \(KLGradient, KLGradient\.Ent"
    ):
        Steering(strengths=[1.0], features=[Entropy()])


def test_a_product_is_no_rule():
    with pytest.raises(InputError, match="name it in features"):
        Steering([Contextual(KLGradient(), Entropy())])
