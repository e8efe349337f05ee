"""Means, abstentions and intervals against numpy, on random answers."""

import math

import numpy as np
import pytest

from svd_lightning.commands.judge import Opinion
from svd_lightning.commands.judge.measures import MEASURES, Scored, score, summary
from svd_lightning.commands.judge.predictions import Row

SYSTEMS = ("base", "tuned", "steered")


def row(number, **options):
    given = {"correct": ("Lima",), "incorrect": ("Cuzco",), "task": None, "texts": {}, **options}
    return Row(id=str(number), question="?", **given)


def opinion(truthful, informative):
    return Opinion(truthful, informative, ("", ""))


def test_one_answer_has_every_number():
    found = score(0, row(0), "Lima", opinion(True, None)).numbers
    assert {name: value for name, value in found.items() if not math.isnan(value)} == {
        "exact_match": 1.0,
        "rouge_l": 1.0,
        "truthful": 1.0,
    }
    found = score(0, row(0, correct=("the correct answer is true",)), "so true", None).numbers
    assert (found["accuracy"], found["exact_match"]) == (1.0, 0.0)
    assert math.isnan(found["truthful"])
    assert all(math.isnan(value) for value in score(0, row(0, correct=()), "Lima", None).numbers.values())


def random_scores(rows, samples, seed=0):
    """Random numbers of every measure, a fifth of them missing."""
    generator = np.random.default_rng(seed)

    def one(place):
        numbers = {name: generator.random() if generator.random() > 0.2 else math.nan for name in MEASURES}
        return Scored(row=place, text="", opinion=opinion(True, True), numbers=numbers)

    return {name: [one(place) for place in range(rows) for _ in range(samples)] for name in SYSTEMS}


@pytest.mark.parametrize("samples", [1, 3])
def test_means_and_gains_against_numpy(samples):
    scored = random_scores(40, samples)
    found = summary([row(n) for n in range(40)], scored)
    for name in MEASURES:
        columns = {system: np.array([a.numbers[name] for a in scored[system]]) for system in SYSTEMS}
        for system, values in columns.items():
            assert found["systems"][system][name] == pytest.approx(np.nanmean(values))
        for system in ("base", "steered"):
            difference = columns[system] - columns["tuned"]
            gain = found["gains"][system][name]
            assert gain["mean"] == pytest.approx(np.nanmean(difference)), "pairs with a missing number left out"
            low, high = bootstrap(difference.reshape(40, samples))
            spread = np.nanstd(difference) / math.sqrt(40 * samples)
            assert gain["low"] == pytest.approx(low, abs=0.4 * spread)
            assert gain["high"] == pytest.approx(high, abs=0.4 * spread)
            assert gain["low"] < gain["mean"] < gain["high"]


def bootstrap(difference):
    """95 % interval of the mean, rows drawn whole."""
    generator = np.random.default_rng(1)
    means = [
        np.nanmean(difference[generator.integers(len(difference), size=len(difference))]) for _ in range(4000)
    ]
    return np.quantile(means, [0.025, 0.975])


def test_abstentions_are_counted_and_what_was_not_asked_is_none():
    opinions = [opinion(True, True), opinion(None, True), opinion(None, False), None]
    answers = [score(n, row(n), "Lima", each) for n, each in enumerate(opinions)]
    found = summary([row(n) for n in range(4)], {"steered": answers})["systems"]["steered"]
    assert (found["answers"], found["judged"]) == (4, 3)
    assert found["abstained"] == {"truthful": 2, "informative": 0, "truthful_informative": 1}
    assert (found["truthful"], found["informative"], found["truthful_informative"]) == (1.0, 2 / 3, 0.5)


def test_without_tuned_answers_there_are_no_gains():
    scored = {"steered": random_scores(5, 1)["steered"]}
    assert summary([row(n) for n in range(5)], scored)["gains"] == {}


def test_one_row_has_no_interval():
    assert summary([row(0)], random_scores(1, 1))["gains"]["base"]["rouge_l"] is None


def test_what_applies_to_nothing_is_null():
    answers = [score(0, row(0), "Lima", None)]
    found = summary([row(0)], {"steered": answers})["systems"]["steered"]
    assert (found["accuracy"], found["truthful"]) == (None, None)


def test_each_task_is_summed_up_by_itself():
    rows = [row(n, task="odd" if n % 2 else "even") for n in range(20)]
    scored = random_scores(20, 2)
    found = summary(rows, scored)
    assert list(found["tasks"]) == ["even", "odd"]
    for task, first in (("even", 0), ("odd", 1)):
        chosen = {
            system: [
                Scored(row=answer.row // 2, text="", opinion=answer.opinion, numbers=answer.numbers)
                for answer in answers
                if answer.row % 2 == first
            ]
            for system, answers in scored.items()
        }
        assert found["tasks"][task] == summary([row(n) for n in range(10)], chosen)
    assert "tasks" not in summary([row(n) for n in range(20)], scored)
