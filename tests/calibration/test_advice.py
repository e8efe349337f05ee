"""What a calibration says beside its verdict: too few examples, and which other recipe surely helps."""

from dataclasses import replace

import pytest
import torch

from svd_lightning.calibration import calibrate
from svd_lightning.calibration.advice import options, too_small
from svd_lightning.cli import main
from svd_lightning.metrics import paired_gain
from svd_lightning.steering import KLGradient, NaturalGradient, Steering, TaskAware, Temperature, with_built_in
from svd_lightning.strength import LineSearch, Mean
from tests.calibration.test_questions import SIZE
from tests.objective import reference


def shifted(count=900, along=1.5, seed=0):
    """Labels that lie along log(p/q)."""
    data = reference.tokens(count, size=SIZE, spread=1.0, seed=seed)
    logits = data.tuned + along * (data.tuned - data.base)
    labels = logits.softmax(-1).multinomial(1, generator=torch.Generator().manual_seed(5)).squeeze(-1)
    return reference.Tokens(data.tuned, data.base, labels, data.example, data.position)


def table(data):
    return reference.table(data, rules=with_built_in([KLGradient()]), alpha=1e-6)


def record(rules, estimator, data=None, **more):
    return calibrate(table(shifted() if data is None else data), Steering(rules, alpha=1e-6), estimator, **more)


def test_another_recipe_that_surely_helps_is_named_with_its_options():
    found = record([Temperature()], LineSearch())  # the control: of no use here
    [text] = found["advice"]
    others = [one for one in found["candidates"] if one["rules"] != ["Temperature"]]
    assert f"the best of {len(others)} compared" in text
    named = text.split(" by ")[0].split(" + ")
    assert "--calibration.estimator svd_lightning.strength.LineSearch" in text
    rules = ", ".join(f"svd_lightning.steering.{name}" for name in named)
    assert f"--model.steering.rules '[{rules}]'" in text
    best = max(others, key=lambda one: one["gain"]["low"])
    assert best["rules"] == named
    assert f"{best['gain']['mean']:+.4f} [" in text


def test_a_harmful_adapter_is_told_of():
    data = shifted()
    labels = data.base.softmax(-1).multinomial(1, generator=torch.Generator().manual_seed(5)).squeeze(-1)
    found = record([KLGradient()], LineSearch(), replace(data, labels=labels))
    gain = found["nll_tuned"] - found["nll_base"]
    assert gain > 0.0
    [text] = [text for text in found["advice"] if text.startswith("the base without the adapter surely does")]
    assert f"by {gain:+.4f} [" in text


def test_a_recipe_that_helps_surely_is_not_talked_down():
    """The best single rule: what the joint recipes add is not sure."""
    found = record([NaturalGradient()], LineSearch())
    assert found["verdict"] == "steer"
    assert found["advice"] == []


def test_a_paper_mean_far_too_short_is_told_of_the_line_search():
    found = record([NaturalGradient()], Mean())
    assert found["verdict"] == "steer"
    [text] = found["advice"]
    assert "surely helps more than the configured recipe" in text


def test_noise_earns_no_advice():
    """Labels of the tuned model itself: the best of all candidates would look good by chance at times."""
    for seed in range(6):
        found = record([KLGradient()], LineSearch(), shifted(150, along=0.0, seed=seed))
        assert found["advice"] == []


def test_a_wider_level_is_wider():
    generator = torch.Generator().manual_seed(0)
    better, example = torch.randn(200, generator=generator, dtype=torch.float64), torch.arange(200)
    narrow, wide = (paired_gain(better, torch.zeros_like(better), example, level=level) for level in (0.95, 0.997))
    deviation = better.std().item() / 200**0.5
    assert wide.low < narrow.low < narrow.high < wide.high
    assert narrow.high - narrow.low == pytest.approx(2 * 1.96 * deviation, rel=0.15)
    assert wide.high - wide.low == pytest.approx(2 * 2.97 * deviation, rel=0.15)


@pytest.mark.parametrize(("examples", "warned"), [(13, True), (29, True), (30, False)])
def test_a_small_split_is_called_small(examples, warned):
    found = record([KLGradient()], LineSearch(), shifted(3 * examples), others=False)
    assert any("too few to decide by" in text for text in found["advice"]) is warned
    assert f"({examples} calibration examples)" in found["message"]
    assert bool(too_small(examples)) is warned


def test_the_options_are_those_of_the_command_line(capsys):
    text = options([KLGradient(), TaskAware()], "Newton")
    words = text.replace("'", "").split(" --")
    arguments = [part for word in words for part in ("--" + word.removeprefix("--")).split(" ", 1)]
    with pytest.raises(SystemExit) as end:
        main(["fit", *arguments, "--print_config"])
    assert not end.value.code
    shown = capsys.readouterr().out
    for name in ("steering.KLGradient", "steering.TaskAware", "strength.Newton"):
        assert f"svd_lightning.{name}" in shown


def test_nothing_without_candidates():
    assert record([KLGradient()], LineSearch(), others=False)["advice"] == []
