"""What each feature is, beyond what every feature must hold (tests/conformance/test_features.py)."""

import math

import pytest
import torch

from svd_lightning.functional import log_probabilities
from svd_lightning.steering import Agreement, Divergence, Entropy

TUNED = torch.tensor([[3.0, 1.0], [0.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
BASE = torch.tensor([[1.0, 3.0], [0.0, 0.0], [0.0, 1.0]], dtype=torch.float64)


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
