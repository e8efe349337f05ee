"""Still learning: two validations against a bootstrap, the slope of the training loss against numpy's fit."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from svd_lightning.commands.run.learning import Fall, Trend, fall, fall_line, learning_line, trend
from svd_lightning.metrics import paired_gain


def losses(steps, slope, *, noise=0.3, seed=0):
    draw = random.Random(seed)
    return {step: 3.0 + slope * step + draw.gauss(0.0, noise) for step in range(steps)}


def test_slope_and_error_are_those_of_numpy():
    found = trend(values := losses(90, -0.02))
    last = np.array(sorted(values.items())[-30:])
    (slope, _), covariance = np.polyfit(last[:, 0], last[:, 1], 1, cov=True)
    assert found == Trend(pytest.approx(slope), pytest.approx(covariance[0, 0] ** 0.5), 30)


def test_noise_alone_is_seldom_called_learning():
    found = [trend(losses(60, 0.0, seed=seed)) for seed in range(400)]
    assert 0 < sum(one.falls for one in found) < 400 * 0.04  # one side of 95 %


def test_a_fall_is_seen_and_a_rise_is_not():
    assert trend(losses(90, -0.1)).falls
    assert not trend(losses(90, 0.1)).falls


@pytest.mark.parametrize("steps", [0, 2, 29])
def test_too_few_steps_say_nothing(steps):
    assert trend(losses(steps, -1.0)) is None
    assert learning_line(None, steps=10, epochs=1, folder=Path("runs/a")) is None


def test_the_line_names_the_fall_of_an_epoch_and_the_command():
    line = learning_line(Trend(-0.01, 0.001, 20), steps=60, epochs=2, folder=Path("runs/a b"))
    assert "over its last 20 steps the training loss fell by 0.30 ± 0.07 nats per token an epoch" in line
    assert line.endswith("svd-lightning fit 'runs/a b' --trainer.max_epochs 3, then svd-lightning test 'runs/a b'")
    assert learning_line(Trend(-0.01, 0.01, 20), steps=60, epochs=2, folder=Path("a")) is None


def validations(gain, *, examples=60, epochs=1.0, seed=0):
    """Two validations: each token's log-probability rises by about `gain`, with noise of tokens and examples."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, 12, (examples,), generator=generator)
    before = -3.0 * tokens * torch.rand(examples, generator=generator)
    noise = 0.3 * tokens.sqrt() * torch.randn(examples, generator=generator)
    shared = {"examples": list(range(examples)), "tokens": tokens.tolist()}
    return [
        {"step": 20, "epochs": 1.0, "log_probs": before.tolist(), **shared},
        {"step": 40, "epochs": 1.0 + epochs, "log_probs": (before + gain * tokens + noise).tolist(), **shared},
    ]


def test_a_fall_between_validations_has_the_interval_of_a_paired_bootstrap():
    """The slow way: every token by itself, examples drawn again and again."""
    before, after = validations(0.1)
    tokens = torch.tensor(before["tokens"])
    by_token = [
        (torch.tensor(one["log_probs"]).double() / tokens).repeat_interleave(tokens) for one in (after, before)
    ]
    slow = paired_gain(*by_token, torch.arange(60).repeat_interleave(tokens), resamples=20000)
    found = fall([before, after])
    assert found.examples == 60
    assert found.mean == pytest.approx(slow.mean, rel=1e-5)
    assert found.error == pytest.approx((slow.high - slow.low) / 2, rel=0.05)
    assert fall(validations(0.1, epochs=0.5)).mean == pytest.approx(2 * found.mean)


def test_a_change_without_a_direction_is_seldom_called_learning():
    assert 0 < sum(fall(validations(0.0, seed=seed)).sure for seed in range(300)) < 300 * 0.06  # one side of 95 %


@pytest.mark.parametrize("broken", ["one", "few", "others"])
def test_too_little_to_compare_says_nothing(broken):
    both = validations(1.0, examples=5 if broken == "few" else 20)
    if broken == "others":
        both[1]["examples"] = both[1]["examples"][::-1]
    assert fall(both[:1] if broken == "one" else both) is None


def test_the_line_of_a_fall_names_interval_candidates_and_command():
    record = {"candidates": [{"gain": {"mean": 0.05}}], "corrections": [{"gain": {"mean": -0.2}}]}
    line = fall_line(Fall(0.124, 0.031, 81), record, epochs=2, folder=Path("runs/a"))
    assert (
        "between the last two validations the NLL fell by 0.12 ± 0.03 nats per token an epoch (81 examples)"
        in line
    )
    assert ", more than any candidate here gains (0.05). To train on: svd-lightning fit runs/a --trainer" in line
    record["candidates"][0]["gain"]["mean"] = 0.3
    assert "candidate" not in fall_line(Fall(0.124, 0.031, 81), record, epochs=2, folder=Path("a"))
    by_choice = {**record, "questions": {"by_choice": True}}  # whose gains are in other units
    assert "candidate" not in fall_line(Fall(0.124, 0.031, 81), by_choice, epochs=2, folder=Path("a"))
    assert fall_line(Fall(0.02, 0.03, 81), record, epochs=2, folder=Path("a")) is None
