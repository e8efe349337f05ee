"""What a conversation remembers, without a model."""

import pytest

from svd_lightning.commands.chat.session import Session
from svd_lightning.data.examples import Message
from svd_lightning.errors import InputError
from svd_lightning.steering import UNSTEERED, KLGradient, NaturalGradient, Steering

CALIBRATED = Steering(strengths=[2.0])


@pytest.fixture
def session():
    return Session(Steering(), CALIBRATED, system="Be brief.")


def texts(session):
    return [(message.role, message.content) for message in session.question().messages]


def test_questions_and_answers_make_the_history(session):
    session.ask("one")
    session.keep("first")
    session.ask("two")
    history = [("system", "Be brief."), ("user", "one"), ("assistant", "first"), ("user", "two")]
    assert texts(session) == history
    session.keep("second")
    assert texts(session) == history, "to compare, the last question is asked again"
    assert not any(one.trained for one in session.messages if one.role == "assistant")
    session.ask("too long")
    session.take_back()
    assert texts(session) == history
    assert session.obey("/reset") == "a new conversation"
    assert session.messages == [Message(role="system", content="Be brief.")]
    assert not session.asked


def test_who_answers(session):
    assert session.mode == "steered"
    assert session.steerings == {**UNSTEERED, "steered": CALIBRATED}
    assert session.obey("/base") == "base answers"
    assert session.mode == "base"
    assert session.obey("/strength 3.5") == "μ = 3.5; steered answers"
    assert session.steerings["steered"].strengths == (3.5,)
    assert session.mode == "steered"
    assert session.obey("/strength") == "as calibrated; steered answers"
    assert session.steerings["steered"] is CALIBRATED


def test_several_rules_take_a_strength_each():
    session = Session(Steering([KLGradient(), NaturalGradient()]), None)
    assert session.mode == "tuned"
    with pytest.raises(InputError, match="not calibrated; give a strength: /strength X"):
        session.obey("/steered")
    with pytest.raises(InputError, match="expected one per rule"):
        session.obey("/strength 1")
    session.obey("/strength 1 -0.5")
    assert session.steerings["steered"].strengths == (1.0, -0.5)
    with pytest.raises(InputError, match="not calibrated"):
        session.obey("/strength")
    assert session.mode == "steered"


def test_without_a_chat_template_each_line_stands_alone():
    session = Session(Steering(), CALIBRATED, template=False)
    session.ask("once upon")
    session.keep(" a time")
    session.ask("long ago")
    question = session.question()
    assert (question.prompt, question.messages) == ("long ago", None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/nothing", "there is no command /nothing; expected one of /strength, /reset"),
        ("/", "there is no command /; expected"),
        ("/strenght 3", "there is no command /strenght; did you mean /strength?"),
        ("/strength much", "strength: expected numbers, got 'much'"),
        ("/strength nan", "expected finite numbers"),
    ],
)
def test_bad_commands_change_nothing(session, line, message):
    with pytest.raises(InputError, match=message):
        session.obey(line)
    assert session.mode == "steered"
    assert session.steerings["steered"] is CALIBRATED


def test_help_and_quit(session):
    assert all(
        command in session.obey("/help") for command in ("/base", "/compare", "/reset", "/quit", "/strength")
    )
    with pytest.raises(EOFError):
        session.obey("/quit")
