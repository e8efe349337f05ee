"""What a verdict is about: all label tokens, under a distribution in which all of them are possible."""

import math

import pytest
import torch

from svd_lightning.calibration import calibrate, recall_all
from svd_lightning.steering import KLGradient, Steering, Temperature, with_built_in
from svd_lightning.strength import Fixed, LineSearch
from tests.objective import reference

ALPHA = 0.3


def under_confident_within_the_mask(count=600):
    """Labels: three in four the likeliest token, one in four far outside the mask."""
    data = reference.tokens(count, size=13)
    order = data.tuned.argsort(-1, descending=True)
    outside = torch.arange(count) % 4 == 0
    labels = torch.where(outside, order[:, -3], order[:, 0])
    return reference.Tokens(data.tuned, data.base, labels, data.example, data.position)


def table(data):
    return reference.table(data, rules=with_built_in([KLGradient()]), alpha=ALPHA)


def log_probs(data, steering):
    """Of the labels, by the steering itself; its penalty of −∞ counts as 0, as in scoring."""
    penalty = 0.0 if steering.penalty == -math.inf else steering.penalty
    return (
        steering.with_penalty(penalty)(data.tuned, data.base)
        .log_softmax(-1)
        .gather(-1, data.labels[:, None])[:, 0]
    )


def test_a_gain_inside_the_mask_alone_is_no_gain():
    """The fault of issue 20, B.5: counted over the covered tokens this control helps, over all it harms."""
    data = under_confident_within_the_mask()
    steering = Steering([Temperature()], [4.0], alpha=ALPHA)
    covered = reference.covered(data, ALPHA)
    assert covered.double().mean().item() == 0.75
    steered, tuned = log_probs(data, steering), data.tuned.log_softmax(-1).gather(-1, data.labels[:, None])[:, 0]
    forbidding = steering(data.tuned, data.base).log_softmax(-1).gather(-1, data.labels[:, None])[:, 0]
    masked = steering.with_strengths([0.0])(data.tuned, data.base).log_softmax(-1)
    masked = masked.gather(-1, data.labels[:, None])[:, 0]
    assert (forbidding - masked)[covered].mean() > 0.1  # what was counted
    assert (steered - tuned).mean() < 0.0
    record = calibrate(table(data), steering, Fixed([4.0]), others=False)
    assert record["gain_over_tuned"]["mean"] == pytest.approx((steered - tuned).mean().item(), rel=1e-5)
    assert record["used"]["strengths"] != [4.0]


@pytest.mark.parametrize("penalty", [-math.inf, -2.0, 0.0])
@pytest.mark.parametrize("rules", [[KLGradient()], [KLGradient(), Temperature()]], ids=["one", "two"])
def test_what_is_switched_on_makes_all_tokens_likelier(rules, penalty):
    data = under_confident_within_the_mask()
    steering = Steering(rules, alpha=ALPHA, penalty=penalty)
    record = calibrate(table(data), steering, LineSearch(), others=False)
    used = recall_all(steering, record).shared
    tuned = data.tuned.log_softmax(-1).gather(-1, data.labels[:, None])[:, 0]
    gain = (log_probs(data, used) - tuned).mean().item()
    assert gain >= 0.0
    if any(used.strengths):
        assert record["used"]["gain"]["low"] > 0.0
        assert record["used"]["gain"]["mean"] == pytest.approx(gain, abs=0.05)


def test_a_finite_penalty_is_compared_with_the_tuned_model_as_it_is():
    """Falling back to the tuned model takes the penalty away too: its cost counts against steering."""
    data = under_confident_within_the_mask()
    steering = Steering([KLGradient()], [0.5], alpha=ALPHA, penalty=-3.0)
    record = calibrate(table(data), steering, Fixed([0.5]), others=False)
    tuned = data.tuned.log_softmax(-1).gather(-1, data.labels[:, None])[:, 0]
    gain = (log_probs(data, steering) - tuned).mean().item()
    assert record["gain_over_tuned"]["mean"] == pytest.approx(gain, rel=1e-5)
