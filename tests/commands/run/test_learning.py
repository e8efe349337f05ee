"""Still learning: the slope of the training loss, against numpy's fit and on losses without a slope."""

import random
from pathlib import Path

import numpy as np
import pytest

from svd_lightning.commands.run.learning import Trend, learning_line, trend


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
