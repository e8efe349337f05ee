"""Recipes come back from plain data, and from JSON, as they were."""

import json
import math
from typing import get_args

import pytest
import torch

from svd_lightning.errors import InputError
from svd_lightning.files import write_json
from svd_lightning.steering import (
    CORRECTIONS,
    AdapterScale,
    Agreement,
    CalibratedHead,
    Corrected,
    CorrectionName,
    Entropy,
    KLGradient,
    LabelBias,
    NaturalGradient,
    Prior,
    Steering,
    as_plain,
    from_plain,
)
from tests.conformance import test_features, test_rules

RECIPES = {
    "paper": Steering(strengths=[1 / 3]),
    "joint": Steering([KLGradient(), NaturalGradient()], [0.1, -7e-12], alpha=0.01, penalty=-3.7),
    "contextual": Steering([NaturalGradient()], [0.1, 2.0, -1.0], features=[Entropy(), Agreement()]),
    "unmasked": Steering(strengths=[2], alpha=None, penalty=0.0),
    "uncalibrated": Steering(),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_comes_back_from_json(name, tmp_path):
    recipe = RECIPES[name]
    write_json(tmp_path / "recipe.json", as_plain(recipe))
    again = from_plain(json.loads((tmp_path / "recipe.json").read_text()))
    assert as_plain(again) == as_plain(recipe)
    assert again.penalty == recipe.penalty
    if recipe.calibrated:
        tuned, base = torch.randn(2, 3, 11)
        assert torch.equal(again(tuned, base), recipe(tuned, base))


@pytest.mark.parametrize("rule", test_rules.RULES, ids=lambda rule: rule.__name__)
def test_every_rule_comes_back(rule):
    plain = as_plain(Steering([rule()]))
    assert plain["rules"][0]["class_path"] == f"svd_lightning.steering.{rule.__name__}"
    assert type(from_plain(plain).rules[0]) is rule


@pytest.mark.parametrize("feature", test_features.FEATURES, ids=lambda feature: feature.__name__)
def test_every_feature_comes_back(feature):
    plain = as_plain(Steering(features=[feature()]))
    assert plain["features"][0]["class_path"] == f"svd_lightning.steering.{feature.__name__}"
    assert type(from_plain(plain).features[0]) is feature


def test_classes_from_elsewhere_are_refused():
    class Mine(KLGradient):
        pass

    with pytest.raises(InputError, match=r"steering\.rules: expected those built in \(KLGradient"):
        from_plain(as_plain(Steering([Mine()])))
    assert as_plain(Steering([Mine()]))["rules"][0]["class_path"] == f"{__name__}.{Mine.__qualname__}"
    plain = as_plain(Steering(features=[Entropy()])) | {"features": [{"class_path": "os.system", "init_args": {}}]}
    with pytest.raises(InputError, match=r"steering\.features: .* got 'os\.system'"):
        from_plain(plain)


def test_infinity_is_written_as_a_word():
    assert as_plain(Steering())["penalty"] == -math.inf


CORRECTED = {
    "AdapterScale": AdapterScale(1.25),
    "Prior": Prior(torch.tensor([3, 9]), torch.tensor([0.1, -2.0])),
    "LabelBias": LabelBias(torch.tensor([3, 9]), torch.tensor([0.1, -2.0])),
    "CalibratedHead": CalibratedHead(torch.tensor([3, 9]), torch.tensor([[0.1, 1e-30], [-2.0, math.pi]])),
}


@pytest.mark.parametrize("name", get_args(CorrectionName))
def test_a_correction_comes_back_bit_by_bit(name):
    assert get_args(CorrectionName) == tuple(CORRECTIONS) == tuple(CORRECTED)
    steering = Corrected.of(Steering(), CORRECTED[name])
    again = from_plain(json.loads(json.dumps(as_plain(steering))))
    assert isinstance(again, Corrected)
    assert type(again.correction) is CORRECTIONS[name]
    assert (again.strengths, again.alpha, again.penalty) == (steering.strengths, steering.alpha, steering.penalty)
    for key, tensor in CORRECTED[name].tensors().items():
        assert torch.equal(again.correction.tensors()[key], tensor)
        assert again.correction.tensors()[key].dtype == tensor.dtype


def test_an_unknown_correction_is_refused():
    plain = as_plain(Corrected.of(Steering(), CORRECTED["Prior"]))
    plain["correction"]["name"] = "Oracle"
    with pytest.raises(InputError, match=r"steering.correction: expected one of AdapterScale, .*, got 'Oracle'"):
        from_plain(plain)
