"""Examples and questions say what is wrong with them."""

import pytest

from svd_lightning.data import ChoiceQuestion, Example
from svd_lightning.errors import InputError


def test_a_question_as_an_example_takes_the_best_choice():
    question = ChoiceQuestion("7", "Two and two?", (" five", " four", " IV"), correct=(1, 2), best=2, task="sums")
    assert question.as_example() == Example("7", "Two and two?", " IV", task="sums")


@pytest.mark.parametrize(
    ("choices", "correct", "best", "message"),
    [
        ((), (0,), 0, "expected choices, got none"),
        ((" a", " "), (0,), 0, "choices with text"),
        ((" a", " b"), (), 0, "at least one right choice"),
        ((" a", " b"), (2,), 2, "right choices among 0 to 1"),
        ((" a", " b"), (-1,), -1, "right choices among 0 to 1"),
        ((" a", " b"), (0,), 1, "best among the right ones"),
    ],
)
def test_questions_that_cannot_be_scored_are_refused(choices, correct, best, message):
    with pytest.raises(InputError, match=f"question 'q': .*{message}"):
        ChoiceQuestion("q", "?", choices, correct=correct, best=best)
