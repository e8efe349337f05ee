"""The levels at which the gains of several candidates hold at once."""

import math

import numpy as np
import pytest
import torch

from svd_lightning.metrics import joint_level, paired_gain

EXAMPLE = torch.arange(180) // 3


def draws(count, *, alike=0.0, seed=0):
    """Numbers of as many candidates as wanted, whose true gain is zero: float64 [count, N]."""
    make = torch.Generator().manual_seed(seed)
    shared, own = (torch.randn(number, 60, generator=make, dtype=torch.float64) for number in (1, count))
    return (alike**0.5 * shared + (1.0 - alike) ** 0.5 * own)[:, EXAMPLE]


def slow(better, worse, example, *, level, resamples=2000):
    """The definition, a draw and a candidate at a time."""
    make, names = np.random.default_rng(0), example.unique().tolist()
    means = []
    for _ in range(resamples):
        rows = torch.cat(
            [torch.nonzero(example == names[one]).squeeze(1) for one in make.integers(0, len(names), len(names))]
        )
        means.append([(one - worse)[rows].mean().item() for one in better])
    ranks = [[sum(other[c] <= mean for other in means) for c, mean in enumerate(row)] for row in means]
    lowest = sorted(min(row) for row in ranks)
    return 1.0 - 2.0 * lowest[int((1.0 - level) / 2.0 * resamples)] / resamples


def test_against_the_definition():
    better, worse = draws(3, alike=0.5)[:, :60], torch.zeros(60, dtype=torch.float64)
    expected = slow(better, worse, EXAMPLE[:60], level=0.8, resamples=400)
    assert joint_level(list(better), worse, EXAMPLE[:60], level=0.8) == pytest.approx(expected, abs=0.03)


def test_from_copies_to_candidates_that_have_nothing_in_common():
    """A copy costs nothing, twelve others what Bonferroni asks of them; those between lie between."""
    worse = torch.zeros(180, dtype=torch.float64)
    one, apart, alike = draws(1), draws(12), draws(12, alike=0.9)
    assert joint_level([one[0]] * 12, worse, EXAMPLE) == pytest.approx(0.95, abs=1e-3)
    assert joint_level(list(apart), worse, EXAMPLE) == pytest.approx(1.0 - 0.05 / 12, abs=1e-3)
    assert 0.955 < joint_level(list(alike), worse, EXAMPLE) < 0.99
    assert joint_level([*one, worse], worse, EXAMPLE) == pytest.approx(0.95, abs=1e-3), (
        "what is tuned cannot seem better"
    )


def test_what_is_infinite_is_left_out():
    worse, [one] = torch.zeros(180, dtype=torch.float64), draws(1)
    known, nothing = one.clone(), torch.full_like(one, -math.inf)
    known[:90] = -math.inf
    assert joint_level([one, nothing], worse, EXAMPLE) == pytest.approx(0.95, abs=1e-3)
    assert 0.95 < joint_level([one, known], worse, EXAMPLE) < 0.98


def test_what_gains_nothing_seldom_seems_to():
    """Of eight that are alike one in some 2.5 % of all data; by single intervals far more often."""
    worse, found = torch.zeros(180, dtype=torch.float64), {"bonferroni": 0, "joint": 0, "single": 0}
    for seed in range(150):
        better = list(draws(8, alike=0.8, seed=seed))
        joint = joint_level(better, worse, EXAMPLE, resamples=4000)
        for name, level in (("bonferroni", 1.0 - 0.05 / 8), ("joint", joint), ("single", 0.95)):
            found[name] += any(paired_gain(one, worse, EXAMPLE, level=level).sure for one in better)
    assert found["bonferroni"] <= found["joint"] <= 0.06 * 150
    assert found["single"] > 2 * found["joint"]
