"""The last screen: what it says follows from the records, and agrees with its table."""

import re
from pathlib import Path

import pytest

from svd_lightning.commands.run.answer import answer, chosen_name

TUNED = {"rules": ["KLGradient"], "strengths": [0.0]}
USED = {
    "tuned": TUNED,
    "steer": {"rules": ["KLGradient"], "strengths": [2.0]},
    "control": {"rules": ["Temperature"], "strengths": [0.4]},
    "correct": {**TUNED, "correction": "CalibratedHead"},
}
NAMES = {
    "tuned": "tuned, as it is",
    "steer": "steered by KLGradient",
    "control": "sharpened (control)",
    "correct": "calibrated head",
}


def record(verdict, **more):
    gain = {"mean": 0.02, "low": 0.01, "high": 0.03}
    used = {**USED[verdict], "intervals": None, "gain": gain}
    figures = {"nll_base": 3.0, "nll_tuned": 2.0, "examples": 40}
    rules = [{"rules": ["KLGradient"], "reads_base": True}, {"rules": ["Temperature"], "reads_base": False}]
    said = {"verdict": verdict, "message": "why", "used": used, "tasks": [], "candidates": rules}
    return {**said, **figures, **more}


def metrics(base=(-1.0, -1.2, -0.8), steered=(0.02, 0.01, 0.03), examples=60, **more):
    def entry(value, gain):
        return {"value": value, **dict(zip(("gain", "low", "high"), gain, strict=True))}

    nll = {"base": entry(3.0, base), "tuned": {"value": 2.0}, "steered": entry(2.0 - steered[0], steered)}
    return {"examples": examples, "questions": 5 if more else 0, "metrics": {"NLL": nll, **more}}


def screen(*arguments, **options):
    return answer(*arguments, folder=Path("runs/a b"), trained=options.pop("trained", True), **options)


@pytest.mark.parametrize("verdict", USED)
def test_table_sentences_and_cost_agree(verdict):
    gain = (0.0, 0.0, 0.0) if verdict == "tuned" else (0.02, 0.01, 0.03)
    shown = screen(record(verdict), metrics(steered=gain))
    assert [row.cells[0] for row in shown.tables[0].rows] == ["base", "tuned", f"chosen: {NAMES[verdict]}"]
    text = "\n".join(shown.lines)
    assert "Training surely helps: the tuned model gains +1.0000 [+0.8000, +1.2000] nats per token over" in text
    assert "Calibration: why." in text
    assert ("base both run" in text) == (verdict == "steer")
    said = re.findall(r"Test: (.*) gains (.*) nats", text)
    assert (shown.tables[0].rows[2].cells[2] == "") == (verdict == "tuned")
    assert said == ([] if verdict == "tuned" else [(NAMES[verdict], shown.tables[0].rows[2].cells[2])])
    assert len(shown.tables[0].rows) + len(shown.lines) + len(shown.commands) <= 10


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ((-1.0, -1.2, -0.8), "surely helps"),
        ((0.1, 0.05, 0.2), "surely harms"),
        ((-0.1, -0.3, 0.1), "makes no sure difference"),
    ],
)
def test_whether_training_helped(interval, words):
    assert f"Training {words}" in screen(record("tuned"), metrics(base=interval)).lines[0]
    assert f"The adapter {words}" in screen(record("tuned"), metrics(base=interval), trained=False).lines[0]


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ((0.02, 0.01, 0.03), "surely more"),
        ((-0.02, -0.03, -0.01), "surely less"),
        ((0.01, -0.01, 0.03), "not surely other than zero"),
    ],
)
def test_what_the_test_finds_of_the_choice(interval, words):
    assert f"over the tuned model, {words}." in "\n".join(screen(record("steer"), metrics(steered=interval)).lines)


def test_splits_that_differ_are_told():
    shown = [
        screen(record("steer"), metrics(steered=(0.01, low, high))) for low, high in ((0.0, 0.011), (0.0, 0.009))
    ]
    assert [any("the two splits differ" in line for line in each.lines) for each in shown] == [False, True]


def test_the_choice_is_tested_in_the_unit_of_its_calibration():
    """Likelihood and choice may point in different directions: each number has its own column."""
    names = ("base", "tuned", "steered")
    choice = {name: {"value": 1.25, "gain": 0.3, "low": 0.1, "high": 0.5} for name in names}
    mc1 = {name: {"value": 0.25, "gain": -0.12, "low": -0.2, "high": -0.04} for name in names}
    chosen = record("correct", questions={"by_choice": True})
    shown = screen(chosen, metrics(steered=(-0.05, -0.08, -0.02), choice_NLL=choice, MC1=mc1))
    likelihood, choices = shown.tables
    assert likelihood.rows[2].cells[2] == "-0.0500 [-0.0800, -0.0200]"
    assert [row.cells[3:] for row in choices.rows] == [
        ("1.2500", "+0.3000 [+0.1000, +0.5000]"),
        ("25.0%", "-12.0 [-20.0, -4.0]"),
    ]
    assert shown.lines[1].startswith(
        "In the choice among options it gains -0.3000 [-0.5000, -0.1000] nats per ques"
    )
    tested = [line for line in shown.lines if line.startswith(("Test:", "It answers", "The calibration"))]
    assert tested == [
        "Test: calibrated head gains +0.3000 [+0.1000, +0.5000] nats per question over the tuned model, surely "
        "more.",
        "It answers fewer test questions rightly: MC1 25.0% -12.0 [-20.0, -4.0] points.",
    ]
    older = screen(chosen, metrics(MC1=mc1))  # a test of before the choice was measured
    assert not [line for line in older.lines if line.startswith("Test:")]


def test_few_examples_questions_tasks_and_no_test():
    assert "12 test examples are few" in "\n".join(screen(record("tuned"), metrics(examples=12)).lines)
    mc1 = {name: {"value": 0.5, "gain": 0.01, "low": -0.02, "high": 0.04} for name in ("base", "tuned", "steered")}
    _, choices = screen(record("tuned"), metrics(MC1=mc1)).tables
    assert [row.cells for row in choices.rows] == [("MC1", "50.0%", "50.0%", "50.0%", "+1.0 [-2.0, +4.0]")]
    tasks = [{"judged_by": "task", "used": USED["steer"]}]
    assert chosen_name(record("tuned", tasks=tasks)) == "chosen for each task"
    assert "base both run" in "\n".join(screen(record("tuned", tasks=tasks), metrics()).lines)
    alone = screen(record("steer"), None)
    assert "there is no test split" in alone.tables[0].title
    assert not [line for line in alone.lines if line.startswith(("Training", "Test"))]


def test_what_is_still_learning_comes_first_and_commands_can_be_pasted():
    shown = screen(record("steer"), metrics(), learning="Still learning: yes")
    assert shown.lines[0] == "Still learning: yes"
    assert shown.commands[1:] == (
        "svd-lightning inspect 'runs/a b'",
        "svd-lightning export 'runs/a b' 'out/a b'",
    )
