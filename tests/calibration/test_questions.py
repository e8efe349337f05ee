"""A verdict on questions with options: MC1 is judged beside what is fitted."""

import torch

from svd_lightning.calibration import calibrate
from svd_lightning.calibration.split import CalibrationSplit
from svd_lightning.calibration.verdict import Evidence, decide, explain
from svd_lightning.metrics import Gain, Options
from svd_lightning.objective import Choices, QuestionTokens, TokenCollector
from svd_lightning.steering import NaturalGradient, Steering, with_built_in
from svd_lightning.strength import LineSearch
from tests.objective import reference

QUESTIONS, TEMPLATE, SIZE, WRONG = 90, 6, 7, 2
STEERING = Steering([NaturalGradient()], alpha=1e-6, penalty=0.0)


def table(data, tasks=None):
    metric = TokenCollector(with_built_in(STEERING.rules), alpha=1e-6, tasks=tasks)
    data.update(metric)
    return metric.compute()


def questions():
    """Answers of a template, which asks for a long step along log(p/q), and a word, which that step makes wrong.

    The word is one of three. The tuned model ranks the right one first, the base more clearly so.
    """
    generator = torch.Generator().manual_seed(3)
    template = reference.tokens(QUESTIONS * TEMPLATE, size=SIZE, spread=1.0)
    along = template.tuned + 1.5 * (template.tuned - template.base)
    labels = along.softmax(-1).multinomial(1, generator=generator).squeeze(-1)
    number = torch.arange(QUESTIONS)
    tuned = 0.1 * torch.randn(QUESTIONS, SIZE, generator=generator, dtype=torch.float64)
    tuned[:, 0] += 0.6
    base = tuned.clone()
    base[:, 0] += 1.0
    answers = reference.Tokens(
        torch.cat([template.tuned, tuned]),
        torch.cat([template.base, base]),
        torch.cat([labels, torch.zeros(QUESTIONS, dtype=torch.int64)]),
        torch.cat([number.repeat_interleave(TEMPLATE), number]),
        torch.cat([torch.arange(TEMPLATE).repeat(QUESTIONS), torch.full((QUESTIONS,), TEMPLATE)]),
    )
    rows, options = torch.arange(3 * QUESTIONS), 1 + WRONG
    question, place = rows // options, rows % options
    words = reference.Tokens(tuned[question], base[question], place, rows, torch.full_like(rows, TEMPLATE))
    choices = Choices(number, rows, Options(question, place == 0, place == 0))
    return answers, words, choices


def found(**options):
    answers, words, choices = questions()
    of_options = QuestionTokens(table(words), choices)
    return calibrate(table(answers), STEERING, LineSearch(), questions=of_options, others=False, **options)


def test_a_gain_of_the_template_that_costs_answers_is_not_switched_on():
    """The fault of issue 20, B.6: all tokens gain, and the questions are answered worse."""
    answers, _, _ = questions()
    blind = calibrate(table(answers), STEERING, LineSearch(), others=False)
    assert (blind["verdict"], blind["gain_over_tuned"]["low"] > 0.05) == ("steer", True)
    record = found(choice=False)
    assert record["strengths"] == blind["strengths"]
    assert record["gain_over_tuned"] == record["gain_likelihood"] == blind["gain_over_tuned"]
    assert record["questions"]["mc1_tuned"] > 0.95
    assert record["questions"]["mc1_steered"] < 0.5
    assert record["gain_mc1"]["high"] < 0.0
    assert record["verdict"] != "steer"
    assert record["used"]["strengths"] != record["strengths"]
    assert "surely answers fewer questions rightly" in record["message"]


def test_the_choice_is_fitted_where_every_example_has_options():
    record = found()
    assert record["questions"]["by_choice"]
    assert record["questions"]["chance"] == 1 / 3
    assert record["strengths"][0] < 0.0, "the base ranks the right word more clearly first"
    assert record["gain_over_tuned"]["low"] > 0.0
    assert record["gain_likelihood"]["high"] < 0.0, "the template loses"
    assert record["verdict"] == "tuned"
    assert "it surely makes the label tokens less likely" in record["message"]
    assert record["gain_mc1"]["low"] >= 0.0
    answers, words, choices = questions()
    scores = reference.steered_logits(
        torch.tensor(record["strengths"]), words, STEERING.rules, alpha=1e-6, penalty=0.0
    ).log_softmax(-1)[:, :3]
    at = scores[:: 1 + WRONG, :].log_softmax(-1)[:, 0].mean().item()
    split = CalibrationSplit(table(answers), QuestionTokens(table(words), choices), by_choice=True)
    strengths = torch.tensor(record["strengths"], dtype=torch.float64)
    assert abs(split.choice(STEERING.rules).evaluate(strengths).nll + at) < 1e-5


def test_tasks_of_questions_are_judged_by_their_own_answers():
    """Of two tasks of such questions each has its own MC1."""
    answers, words, choices = questions()
    tasks = {number: "even" if number % 2 == 0 else "odd" for number in range(QUESTIONS)}
    of_options = QuestionTokens(table(words), choices)
    options = {"questions": of_options, "others": False}
    for choice, mean in ((False, -1.0), (True, 1.0)):
        record = calibrate(table(answers, tasks), STEERING, LineSearch(), choice=choice, **options)
        assert [task["task"] for task in record["tasks"]] == ["even", "odd"]
        for task in record["tasks"]:
            assert task["gain_mc1"]["mean"] * mean >= 0.0
            assert task["used"]["strengths"] != task["strengths"] or choice
            assert (task["gain_over_tuned"] == task["gain_likelihood"]) is not choice


SURE, UNSURE, HARM = Gain(0.2, 0.1, 0.3), Gain(0.0, -0.1, 0.1), Gain(-0.1, -0.2, -0.05)


def test_what_surely_harms_is_never_chosen():
    good, harmful = Evidence(SURE, SURE, UNSURE), Evidence(SURE, SURE, HARM)
    unsure = Evidence(UNSURE, SURE, None)
    assert decide(good, SURE, good, is_control=False) == "steer"
    assert decide(good, UNSURE, good, is_control=False) == "control"
    assert decide(harmful, SURE, good, is_control=False) == "control"
    assert decide(harmful, SURE, harmful, is_control=False) == "tuned"
    assert decide(good, UNSURE, harmful, is_control=False) == "tuned"
    assert decide(harmful, UNSURE, harmful, is_control=True) == "tuned"
    assert decide(unsure, SURE, unsure, is_control=False) == "tuned"
    unlikely = Evidence(SURE, HARM, SURE)  # the right option gains, and all that is written loses
    assert decide(unlikely, SURE, unlikely, is_control=False) == "tuned"
    told = {"temperature": -1.0, "guard": True, "examples": 50}
    assert "flattening surely makes the label tokens less likely" in explain(
        "tuned", unsure, SURE, unlikely, **told
    )


def test_the_words_say_which_way_the_temperature_goes():
    unsure, sure = Evidence(UNSURE, UNSURE, None), Evidence(SURE, SURE, None)
    text = explain("control", unsure, UNSURE, sure, temperature=-0.3, guard=True, examples=50)
    assert "flattening" in text
    assert "sharpening" not in text
    assert "sharpening" in explain("steer", sure, SURE, sure, temperature=0.3, guard=True, examples=50)
