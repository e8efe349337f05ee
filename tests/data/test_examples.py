"""Examples and questions say what is wrong with them."""

import pytest

from svd_lightning.data import ChoiceQuestion, Example, Message
from svd_lightning.errors import InputError


def test_a_question_as_an_example_takes_the_best_choice():
    question = ChoiceQuestion("7", "Two and two?", (" five", " four", " IV"), correct=(1, 2), best=2, task="sums")
    assert question.as_example() == Example("7", "Two and two?", " IV", task="sums")


def test_every_choice_is_an_example_of_the_same_prompt():
    turns = (Message(role="user", content="Two and two?"),)
    question = ChoiceQuestion("7", "Two and two?", (" five", " four"), correct=(1,), best=1, messages=turns)
    examples = question.as_examples()
    assert [(each.id, each.completion) for each in examples] == [("7", " five"), ("7", " four")]
    assert all(each.messages == turns and each.question is question for each in examples)


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
