"""What a check by decoding changes in a record, and the steering that it decodes with."""

import pytest
import torch

from svd_lightning.calibration import HeldOutSteering, calibrate, recall_all, withhold
from svd_lightning.calibration.split import example_folds
from svd_lightning.objective import MaskedObjective
from svd_lightning.strength import LineSearch, Mean
from tests.calibration.test_tasks import ALONG, STEERING, table, tokens

WORSE = {"value": 0.5, "gain": -0.475, "low": -0.6, "high": -0.4}
CHECK = {
    "examples": 24,
    "metrics": {"repeated_trigrams": {"tuned": {"value": 0.025}, "steered": WORSE}},
    "texts": [],
}
SLIP, FINE = ({**CHECK, "worse": worse} for worse in (["repeated_trigrams"], []))
FELL = "repeated trigrams 0.025 → 0.5, gain -0.475 [-0.6, -0.4]"


@pytest.fixture(scope="module")
def four():
    return table(*tokens(600, names=("far", "far", "back", None)))


def found(data, estimator=LineSearch(), **options):  # noqa: B008  has no state
    return calibrate(data, STEERING, estimator, others=False, **options)


def test_what_is_surely_worse_is_not_used_in_any_task(four):
    record = found(four)
    assert {record["verdict"], *(task["verdict"] for task in record["tasks"])} == {"steer"}
    withheld = withhold(record, SLIP)
    for part in (withheld, *withheld["tasks"]):
        assert (part["verdict"], part["used"]["strengths"]) == ("tuned", [0.0])
        assert FELL in part["message"]
    steering = recall_all(STEERING, withheld)
    assert [steering.of_task(task).strengths for task in (None, *ALONG)] == [(0.0,)] * 4
    kept = ("strengths", "candidates", "gain_over_tuned", "nll_steered")
    assert {name: withheld[name] for name in kept} == {name: record[name] for name in kept}


def test_what_is_not_worse_stays(four):
    record = found(four)
    assert withhold(record, FINE) == {**record, "decoding": FINE}


def test_without_the_guard_it_is_only_said(four):
    record = found(four, guard=False)
    checked = withhold(record, SLIP)
    assert checked["used"] == record["used"]
    assert checked["tasks"] == record["tasks"]
    assert checked["message"].startswith(record["message"])
    assert FELL in checked["message"]
    for verdict, message in (("steer", "steering helps"), ("tuned", "steering does not help; guard is off")):
        before = {**record, "verdict": verdict, "message": message}
        assert withhold(before, SLIP)["message"].count("guard is off") == 1


@pytest.mark.parametrize("estimator", [LineSearch(), Mean()], ids=["line-search", "mean"])
def test_each_example_is_steered_by_what_the_other_folds_found(estimator):
    data = table(*tokens(90, names=[None]))
    record = found(data, estimator, folds=3, guard=False)
    held_out = HeldOutSteering(STEERING, record, data.example)
    numbers, fold = example_folds(data.example, 3)
    for number, mine in zip(numbers.tolist(), fold.tolist(), strict=True):
        others = data.select(torch.isin(data.example, numbers[fold != mine]))
        wanted = estimator(MaskedObjective(others, STEERING.rules, penalty=STEERING.penalty)).strengths
        [steering] = held_out.of_batch({"index": torch.tensor([number]), "task": [None]})._functions
        assert steering.strengths == pytest.approx(wanted, rel=1e-5)


def test_each_example_is_steered_as_its_task_is(four):
    record = found(four)
    held_out = HeldOutSteering(STEERING, record, four.example)
    tasks = {task["task"]: task["used"]["fold_strengths"] for task in record["tasks"]}
    numbers, fold = example_folds(four.example, 4)
    names = [four.tasks.get(number) for number in numbers.tolist()]
    batch = {"index": numbers, "task": names}
    row_steering = held_out.of_batch(batch)
    for row, (name, mine) in enumerate(zip(names, fold.tolist(), strict=True)):
        wanted = tasks[name][mine] if name else record["used"]["fold_strengths"][mine]
        found_here = row_steering._functions[row_steering._number[row]].strengths
        assert list(found_here) == pytest.approx(wanted)
