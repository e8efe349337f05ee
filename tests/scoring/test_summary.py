"""Gains over the tuned model with their intervals."""

import numpy as np
import pytest
import torch

from svd_lightning.errors import InputError
from svd_lightning.metrics import Completions, MultipleChoice
from svd_lightning.scoring.summary import summarise
from tests.metrics.reference import NAMES, add, add_tokens, expected, random_questions

SAME = {name: name for name in NAMES}


def gathered(count, *, rows=((0, 1), (0, 2), (1, 1))):
    choices, completions = MultipleChoice(NAMES), Completions(NAMES)
    add(choices, random_questions(count))
    add_tokens(completions, list(rows))
    return completions.compute(), choices.compute()


@pytest.mark.parametrize("metric", ["MC1", "MC2", "MC3", "accuracy"])
def test_a_gain_is_the_mean_of_paired_differences_with_its_bootstrap_interval(metric):
    found = summarise(*gathered(60), SAME, {})["metrics"][metric]
    pairs = np.array(
        [[expected(each, name, normalised=False)[metric] for name in NAMES] for each in random_questions(60)]
    )
    assert found["base"]["value"] == pytest.approx(pairs[:, 0].mean(), abs=1e-6)
    difference = pairs[:, 0] - pairs[:, 1]
    assert found["base"]["gain"] == pytest.approx(difference.mean(), abs=1e-6)
    drawn = np.random.default_rng(0).integers(60, size=(20000, 60))
    low, high = np.quantile(difference[drawn].mean(axis=1), [0.025, 0.975])
    assert found["base"]["low"] == pytest.approx(low, abs=0.02)
    assert found["base"]["high"] == pytest.approx(high, abs=0.02)
    assert set(found["tuned"]) == {"value"}


def test_choice_nll_is_that_of_mc2_and_its_gain_positive_when_better():
    """A question whose right choices are impossible has an infinite one, and takes no part in the gain."""
    found = summarise(*gathered(20), SAME, {})["metrics"]["choice_NLL"]
    mc2 = [[expected(each, name, normalised=False)["MC2"] for name in NAMES] for each in random_questions(20)]
    with np.errstate(divide="ignore"):
        log_mc2 = np.log(np.array(mc2))
    assert found["base"]["value"] == pytest.approx(-log_mc2[:, 0].mean(), abs=1e-6)
    possible = log_mc2[np.isfinite(log_mc2).all(axis=1)]
    assert 0 < len(possible) < len(log_mc2)
    assert found["base"]["gain"] == pytest.approx((possible[:, 0] - possible[:, 1]).mean(), abs=1e-6)


def test_nll_gains_are_positive_when_better():
    found = summarise(*gathered(2), SAME, {})["metrics"]["NLL"]
    assert found["base"]["gain"] == pytest.approx(found["tuned"]["value"] - found["base"]["value"])
    assert found["base"]["gain"] == pytest.approx(1.0)


def test_one_question_has_no_interval():
    found = summarise(*gathered(1, rows=[(0, 1)]), SAME, {})["metrics"]
    for metric in ("NLL", "MC2"):
        assert (found[metric]["base"]["low"], found[metric]["base"]["high"]) == (None, None)
    assert found["NLL"]["base"]["gain"] == pytest.approx(1.0)


def test_each_task_by_itself():
    completions, choices = gathered(3)
    found = summarise(completions, choices, SAME, {0: "a", 1: "b", 7: "nowhere"})
    assert list(found["tasks"]) == ["a", "b"]
    assert [(part["examples"], part["questions"]) for part in (found, *found["tasks"].values())] == [
        (2, 3),
        (1, 1),
        (1, 1),
    ]
    [first] = [each for each in random_questions(3) if each.number == 1]
    value = expected(first, "base", normalised=True)["MC2"]
    assert found["tasks"]["b"]["metrics"]["MC2_normalised"]["base"]["value"] == pytest.approx(value, abs=1e-6)


def test_no_tokens_no_metrics():
    with pytest.raises(InputError, match="test split: expected at least one completion token, got none"):
        summarise(Completions(NAMES).compute(), MultipleChoice(NAMES).compute(), SAME, {})


def test_an_impossible_label_costs_everything_and_no_interval_breaks():
    completions = Completions(NAMES)
    log_probs = {"base": torch.tensor([-torch.inf, -1.0, -1.0]), "tuned": torch.tensor([-2.0, -2.0, -2.0])}
    numbers = torch.arange(3)
    completions.update(numbers, numbers, log_probs=log_probs, kl=dict.fromkeys(NAMES, torch.zeros(3)))
    found = summarise(completions.compute(), MultipleChoice(NAMES).compute(), SAME, {})["metrics"]
    assert found["NLL"]["base"]["value"] == float("inf")
    assert found["NLL"]["base"]["low"] == pytest.approx(1.0)
