"""The short tables of the terminal: base, tuned, control and what is chosen, with the numbers of the records."""

import copy

import pytest

from svd_lightning.report import calibration_answer, held_out_answer
from svd_lightning.report.words import gain_text
from tests.report.cases import CASES


def entry(value, *gain):
    return {"value": value, **dict(zip(("gain", "low", "high"), gain, strict=False))}


DISTRIBUTIONS = {
    "control": {"rules": ["Temperature"], "strengths": [0.5], "estimator": "LineSearch"},
    "chosen": {"rules": ["KLGradient"], "strengths": [9.0], "estimator": "LineSearch"},
    "steered": {"rules": ["KLGradient"], "strengths": [7.0], "estimator": "LineSearch"},
}
NLL = {
    "base": entry(2.0, -0.5, -0.6, -0.4),
    "tuned": entry(1.5),
    "control": entry(1.4, 0.1, 0.05, 0.15),
    "chosen": entry(1.0),
    "steered": entry(1.25, 0.25, 0.125, 0.375),
}
MC1 = {**dict.fromkeys(NLL, entry(0.25)), "steered": entry(0.5, 0.25, 0.125, 0.375)}


def a_test(**changes):
    metrics = {"NLL": NLL, "perplexity": NLL}
    return {
        "examples": 9,
        "questions": 0,
        "metrics": metrics,
        "distributions": DISTRIBUTIONS,
        "tasks": {},
        **changes,
    }


def test_a_test_has_four_rows():
    [table] = held_out_answer(a_test())
    assert [row.cells for row in table.rows] == [
        ("base", "2.0000", "-0.5000 [-0.6000, -0.4000]"),
        ("tuned", "1.5000", ""),
        ("control", "1.4000", "+0.1000 [+0.0500, +0.1500]"),
        ("chosen", "1.2500", "+0.2500 [+0.1250, +0.3750]"),
    ]
    assert [row.used for row in table.rows] == [False, False, False, True]
    assert table.notes[0].startswith("Control: sharpened, μ 0.5. Chosen: KLGradient, μ 7. 9 examples. ")


def test_questions_have_their_metrics():
    metrics = {"NLL": NLL, "choice_NLL": NLL, "MC1": MC1, "accuracy_normalised": MC1}
    _, choices = held_out_answer(a_test(questions=9, metrics=metrics))
    assert choices.title == "Choices of 9 questions"
    assert choices.heads == ("", "base", "tuned", "chosen", "gain over tuned")
    assert [row.cells for row in choices.rows] == [
        ("choice NLL", "2.0000", "1.5000", "1.2500", "+0.2500 [+0.1250, +0.3750]"),
        ("MC1", "25.0%", "25.0%", "50.0%", "+25.0 [+12.5, +37.5]"),
        ("accuracy per token", "25.0%", "25.0%", "50.0%", "+25.0 [+12.5, +37.5]"),
    ]


def test_an_uncalibrated_run_has_base_and_tuned():
    nll = {name: NLL[name] for name in ("base", "tuned")}
    [table] = held_out_answer(a_test(metrics={"NLL": nll}, distributions={}))
    assert [row.cells[0] for row in table.rows] == ["base", "tuned"]


def chosen(record):
    return next(iter(calibration_answer(record))).rows[-1]


@pytest.mark.parametrize("case", CASES)
def test_a_calibration_tells_what_decoding_uses(case):
    record = copy.deepcopy(CASES[case]().record)
    used = next(one for one in record["candidates"] if any(one["strengths"]))
    record["used"] = {**record["used"], "rules": used["rules"], "strengths": used["strengths"]}
    record["used"].pop("correction", None)
    row = chosen(record)
    assert row.used
    assert row.cells[2:] == (f"{used['nll']:.4f}", f"{used['accuracy']:.1%}", gain_text(used["gain"]))

    record["used"]["strengths"] = [0.0] * len(used["strengths"])
    assert chosen(record).cells[1:3] == ("tuned, as it is", f"{record['nll_tuned']:.4f}")

    fitted = {"name": "LabelBias", "nll": 0.5, "accuracy": 0.75, "gain": used["gain"]}
    record["corrections"], record["used"]["correction"] = [fitted], "LabelBias"
    assert chosen(record).cells[1:4] == ("label bias", "0.5000", "75.0%")


def test_the_verdict_a_warning_and_advice_follow():
    record = {**CASES["one-rule"]().record, "warning": "a warning", "advice": ["some", "advice"], "tasks": []}
    _, *said = calibration_answer(record)
    assert said == [record["message"], "a warning", "some", "advice"]
