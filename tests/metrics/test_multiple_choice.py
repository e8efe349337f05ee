"""The metrics of choices against plain Python, in batches and with repetitions."""

import math

import pytest

from svd_lightning.errors import InputError
from svd_lightning.metrics import MultipleChoice
from tests.metrics.reference import NAMES, Question, add, expected, random_questions


def assert_as_reference(scores, questions):
    assert scores.number.tolist() == [question.number for question in questions]
    for name in NAMES:
        found = scores.metrics(name)
        for normalised in (False, True):
            for place, question in enumerate(questions):
                for metric, value in expected(question, name, normalised=normalised).items():
                    key = f"{metric}_normalised" if normalised else metric
                    assert found[key][place].item() == pytest.approx(value, abs=1e-6), (key, question)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("batch", [1, 7, 60])
def test_random_questions(seed, batch):
    questions, metric = random_questions(60, seed=seed), MultipleChoice(NAMES)
    for start in reversed(range(0, 60, batch)):
        add(metric, questions[start : start + batch])
    assert_as_reference(metric.compute(), questions)


def test_repeated_questions_count_once():
    questions, metric = random_questions(9), MultipleChoice(NAMES)
    for share in (questions, questions[2:5], questions[:1]):
        add(metric, share)
    assert_as_reference(metric.compute(), questions)


def test_the_length_decides_between_sum_and_mean():
    question = Question(0, dict.fromkeys(NAMES, (-6.0, -5.0)), tokens=[6, 1], correct=[0], best=0)
    add(metric := MultipleChoice(NAMES), [question])
    found = metric.compute().metrics("tuned")
    assert (found["MC1"].item(), found["MC1_normalised"].item()) == (0, 1)
    assert found["MC2_normalised"].item() == pytest.approx(1 / (1 + math.exp(-4)))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_none_are_refused(bad):
    question = Question(0, {"base": [-1.0, -2.0], "tuned": [bad, -2.0]}, [1, 1], [0], 0)
    with pytest.raises(InputError, match=r"expected log-probabilities, got NaN or \+inf"):
        add(MultipleChoice(NAMES), [question])


def test_a_choice_without_tokens_is_refused():
    with pytest.raises(InputError, match="at least one scored token"):
        add(MultipleChoice(NAMES), [Question(0, dict.fromkeys(NAMES, (-1.0, 0.0)), [1, 0], [0], 0)])


def test_a_question_without_its_best_choice_is_refused():
    question = Question(0, dict.fromkeys(NAMES, (-1.0, -2.0)), [1, 1], correct=[0], best=1)
    add(metric := MultipleChoice(NAMES), [question])
    with pytest.raises(InputError, match="one best choice for each question"):
        metric.compute()
