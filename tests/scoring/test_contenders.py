"""Which distributions a test compares."""

import pytest

from svd_lightning.scoring.contenders import Contender, contenders, distinct
from svd_lightning.steering import Entropy, KLGradient, NaturalGradient, Steering, TaskSteering, Temperature
from tests.scoring.questions import RECORD

RECIPE = Steering([KLGradient()], alpha=0.2, penalty=-3.0)


def test_those_of_the_record_with_mask_and_penalty_as_configured():
    found = contenders(RECIPE, TaskSteering(RECIPE.with_strengths([-8.0])), RECORD)
    assert list(found) == ["control", "paper", "joint", "chosen", "steered"]
    assert found["joint"].plain() == {
        "rules": ["KLGradient", "NaturalGradient", "Temperature"],
        "strengths": [2.0, 0.7, -0.2],
        "estimator": "LineSearch",
    }
    assert [type(rule) for rule in found["control"].steering.rules] == [Temperature]
    assert {(each.steering.alpha, each.steering.penalty) for each in found.values()} == {(0.2, -3.0)}


def test_without_a_calibration_there_is_what_the_user_gave():
    assert contenders(RECIPE, TaskSteering(RECIPE), None) == {}
    found = contenders(RECIPE, TaskSteering(given := RECIPE.with_strengths([1.0])), None)
    assert found == {"steered": Contender(given, None)}


def test_tasks_steered_as_all_are_not_told_apart():
    shared, other = RECIPE.with_strengths([-8.0]), RECIPE.with_strengths([1.0])
    steered = contenders(RECIPE, TaskSteering(shared, {"a": shared, "b": other}), RECORD)["steered"]
    assert steered.own == {"b": other}
    found = contenders(RECIPE, TaskSteering(shared, {"a": shared}), RECORD)
    assert distinct(found)[1]["steered"] == "chosen"


def test_what_a_record_lacks_is_left_out():
    short = {**RECORD, "candidates": RECORD["candidates"][:1]}
    assert list(contenders(RECIPE, TaskSteering(RECIPE), short)) == ["control"]


def test_features_belong_to_the_chosen_recipe():
    recipe = Steering([KLGradient()], features=[Entropy()])
    candidate = {"rules": ["KLGradient", "KLGradient.Entropy"], "estimator": "LineSearch", "strengths": [1.0, 2.0]}
    record = {**RECORD, "rules": candidate["rules"], "candidates": [*RECORD["candidates"], candidate]}
    found = contenders(recipe, TaskSteering(recipe), record)
    assert [len(found[name].steering.features) for name in ("chosen", "paper")] == [1, 0]


@pytest.mark.parametrize(
    ("steering", "same"),
    [
        (Steering(strengths=[0.0]), True),
        (Steering(strengths=[0.0], penalty=0.0), True),
        (Steering(strengths=[0.0], alpha=None, penalty=-1.0), True),
        (Steering(strengths=[0.0], penalty=-1.0), False),
        (Steering(strengths=[0.1]), False),
    ],
)
def test_no_strength_is_the_tuned_model_unless_the_mask_does_something(steering, same):
    scored, names = distinct({"steered": Contender(steering, None)})
    assert names == {"base": "base", "tuned": "tuned", "steered": "tuned" if same else "steered"}
    assert set(scored) == set(names.values()) | {"base", "tuned"}


def test_other_rules_with_the_same_strength_are_not_the_same():
    pair = {"a": Steering([KLGradient()], [1.0]), "b": Steering([NaturalGradient()], [1.0])}
    _, names = distinct({name: Contender(each, None) for name, each in pair.items()})
    assert names["b"] == "b"
