"""Which recipes a calibration compares."""

import os
import signal

import pytest
import torch

from svd_lightning.calibration import calibrate
from svd_lightning.calibration.recipes import CONTROL, Recipe, recipes
from svd_lightning.scoring.collect import token_collector
from svd_lightning.signals import Stopped, answering, deferring
from svd_lightning.steering import KLGradient, NaturalGradient, Steering, with_built_in
from svd_lightning.strength import LineSearch, Mean


def test_only_the_control_and_the_chosen_recipe_without_the_others():
    steering = Steering([KLGradient(), NaturalGradient()])
    wanted = [recipe.key for recipe in recipes(steering, LineSearch(), others=False)]
    assert wanted == [CONTROL.key, (("KLGradient", "NaturalGradient"), "LineSearch")]


def test_every_recipe_comes_once_and_the_joint_one_holds_all_known_rules():
    steering = Steering([KLGradient()])
    keys = [recipe.key for recipe in recipes(steering, Mean())]
    assert len(keys) == len(set(keys))
    assert {CONTROL.key, (("KLGradient",), "Mean"), (("KLGradient",), "LineSearch")} <= set(keys)
    assert Recipe(with_built_in(steering.rules), LineSearch()).key in keys


def test_a_signal_is_answered_between_two_recipes():
    steering = Steering([KLGradient()], alpha=0.1)
    collecting, logits = token_collector(steering), torch.tensor([[1.0, 0.9, 0.8], [1.0, 0.7, 0.9]])
    collecting.update(logits, logits.flip(0), torch.tensor([0, 0]), torch.tensor([0, 1]), torch.tensor([0, 1]))
    with pytest.raises(Stopped) as caught, answering(), deferring(True):
        signalled(collecting.compute(), steering)
    assert "fit_all" in [entry.name for entry in caught.traceback]


def signalled(tokens, steering):
    os.kill(os.getpid(), signal.SIGTERM)
    calibrate(tokens, steering, LineSearch())
