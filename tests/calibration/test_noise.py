"""What rounding noise does to a calibration's record."""

import pytest

from svd_lightning.calibration import add_noise

USED = {
    "rules": ["KLGradient"],
    "strengths": [2.0],
    "intervals": None,
    "gain": {"mean": 1.0, "low": 0.5, "high": 1.5},
}
RECORD = {
    "rules": ["KLGradient"],
    "verdict": "steer",
    "message": "steering helps",
    "warning": None,
    "guard": True,
    "examples": 40,
    "advice": ["NaturalGradient by LineSearch surely helps"],
    "used": USED,
    "tasks": [{"task": "a", "used": USED, "verdict": "steer"}],
}


def noise(value):
    return {"signal": 1.0, "noise": value, "share": 1 / (1 + value**2), "tokens": 64}


def test_little_noise_changes_nothing():
    assert add_noise(RECORD, noise(0.1)) == {**RECORD, "noise": noise(0.1)}


def test_much_noise_warns_and_names_the_remedy():
    found = add_noise({**RECORD, "warning": "at its bound"}, noise(0.5))
    assert found["warning"].startswith("at its bound; rounding noise 0.5 nats, signal 1 nats (64 label tokens)")
    assert "about 80 % of the exact ones; write --model.backbone.dtype float32" in found["warning"]
    assert (found["verdict"], found["used"]) == ("steer", USED)


def test_more_noise_than_signal_is_no_steering():
    found = add_noise(RECORD, noise(1.1))
    assert found["verdict"] == found["tasks"][0]["verdict"] == "tuned"
    assert found["used"]["strengths"] == found["tasks"][0]["used"]["strengths"] == [0.0]
    assert found["message"].startswith("steering is not used: its direction is mostly rounding")


@pytest.mark.parametrize("changes", [{"guard": False}, {"verdict": "control"}, {"rules": ["Temperature"]}])
def test_what_it_leaves_alone(changes):
    record = {**RECORD, **changes}
    found = add_noise(record, noise(1.1))
    assert (found["used"], found["verdict"]) == (record["used"], record["verdict"])
    assert ("guard is off" in found["message"]) is ("guard" in changes)
    assert (found["warning"] is None) is ("rules" in changes)


def test_a_task_is_refused_where_the_pool_does_not_steer():
    tasks = [*RECORD["tasks"], {"task": "b", "used": USED, "verdict": "control"}]
    found = add_noise({**RECORD, "verdict": "tuned", "message": "no", "tasks": tasks}, noise(1.1))
    assert [task["verdict"] for task in found["tasks"]] == ["tuned", "control"]
    assert found["tasks"][0]["used"]["strengths"] == [0.0]
    assert (found["message"], found["advice"]) == ("no", []), "other recipes read the same difference"
