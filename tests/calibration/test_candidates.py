"""Which recipes a calibration compares."""

from svd_lightning.calibration.candidates import CONTROL, Recipe, recipes
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
