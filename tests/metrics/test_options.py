"""MC1, MC2, MC3 and accuracy by hand."""

import math

import pytest
import torch

from svd_lightning.metrics import OPTION_METRICS, Options, accuracy, log_mc2, mc1, mc2, mc3

INF = math.inf


def options(correct, best):
    """One question."""
    right = torch.tensor(correct)
    return Options(torch.zeros(len(correct), dtype=torch.int64), right, torch.arange(len(correct)) == best)


@pytest.mark.parametrize(
    ("scores", "correct", "best", "expected"),
    [
        ([math.log(0.5), math.log(0.25), math.log(0.25)], [1, 0, 0], 0, (1, 0.5, 1, 1)),
        ([math.log(0.2), math.log(0.6), math.log(0.2)], [1, 1, 0], 0, (0, 0.8, 0.5, 1)),  # a tie is no win
        ([math.log(0.2), math.log(0.3), math.log(0.5)], [1, 1, 0], 1, (0, 0.5, 0, 0)),
        ([-1000.0, -1001.0], [1, 0], 0, (1, 1 / (1 + math.exp(-1)), 1, 1)),
        ([-INF, -5.0], [1, 0], 0, (0, 0, 0, 0)),
        ([-5.0, -INF], [1, 0], 0, (1, 1, 1, 1)),
        ([-INF, -INF], [1, 0], 0, (0, 0, 0, 0)),
        ([-3.0], [1], 0, (1, 1, 1, 1)),
        ([-3.0, -3.00005], [1, 0], 0, (0, 0.5, 0, 0)),  # above by rounding: a tie
        ([-3.0, -3.0005], [1, 0], 0, (1, 0.5, 1, 1)),
        ([-300.0, -300.002], [1, 0], 0, (0, 0.5, 0, 0)),  # a sum of many tokens, rounded as often
    ],
)
def test_by_hand(scores, correct, best, expected):
    question = options([bool(c) for c in correct], best)
    scores = torch.tensor(scores, dtype=torch.float64)
    assert log_mc2(question, scores).exp().item() == pytest.approx(mc2(question, scores).item())
    found = [metric(question, scores).item() for metric in (mc1, mc2, mc3, accuracy)]
    assert found == pytest.approx(expected, abs=1e-3)


def test_questions_do_not_see_each_other():
    both = Options(
        torch.tensor([0, 0, 1, 1, 1]),
        torch.tensor([True, False, False, True, True]),
        torch.tensor([True, False, False, False, True]),
    )
    scores = torch.tensor([-9.0, -10.0, -1.0, -0.5, -2.0])
    assert mc1(both, scores).tolist() == [1, 0]
    assert mc3(both, scores).tolist() == [1, 0.5]


def test_the_logarithm_of_mc2_does_not_underflow():
    question, scores = options([True, False], 0), torch.tensor([-3000.0, -1000.0], dtype=torch.float64)
    assert mc2(question, scores).item() == 0.0
    assert log_mc2(question, scores).item() == pytest.approx(-2000.0)


def test_a_constant_added_to_the_scores_changes_nothing():
    question, scores = options([True, False, True, False], 2), torch.tensor([-3.0, -2.5, -1.0, -4.0])
    for metric in OPTION_METRICS.values():
        assert metric(question, scores).item() == pytest.approx(metric(question, scores - 50).item(), abs=1e-6)
