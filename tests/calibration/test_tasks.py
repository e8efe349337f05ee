"""A strength for each task: what the record says, without a model, from a table, a file or a stream."""

import json
import math

import pytest
import torch

from svd_lightning.calibration import calibrate, describe, describe_tasks
from svd_lightning.calibration.describe import by_task
from svd_lightning.objective import TokenCollector
from svd_lightning.objective.stored import load_table, save_table
from svd_lightning.steering import KLGradient, NaturalGradient, Steering, TaskSteering, Temperature, with_built_in
from svd_lightning.strength import LineSearch
from tests.objective import reference

STEERING = Steering([NaturalGradient()], alpha=0.01, penalty=0.0)
ALONG = {"far": 1.5, "back": -1.0, "nowhere": 0.0}
NAMES = (*ALONG, None)


def tokens(count, *, names=NAMES):
    """Examples of three tokens, of the tasks in turn; labels lie as far along log(p/q) as the task's `ALONG`."""
    data = reference.tokens(count, size=7, spread=1.0)
    tasks = {example: names[example % len(names)] for example in data.example.tolist()}
    along = torch.tensor([ALONG.get(tasks[example], 0.5) for example in data.example.tolist()])
    shifted = data.tuned + along[:, None] * (data.tuned - data.base)
    labels = shifted.softmax(-1).multinomial(1, generator=torch.Generator().manual_seed(5)).squeeze(-1)
    data = reference.Tokens(data.tuned, data.base, labels, data.example, data.position)
    return data, {example: task for example, task in tasks.items() if task is not None}


def table(data, tasks, *, alpha=0.01):
    metric = TokenCollector(with_built_in(STEERING.rules), alpha=alpha, tasks=tasks)
    data.update(metric)
    return metric.compute()


def found(data, steering=STEERING, **options):
    return calibrate(data, steering, LineSearch(), others=False, **options)


@pytest.fixture(scope="module")
def four():
    return table(*tokens(1800))


@pytest.fixture(scope="module")
def record(four):
    return found(four)


def test_every_task_has_its_strength_and_its_verdict(record):
    tasks = {task["task"]: task for task in record["tasks"]}
    assert list(tasks) == ["back", "far", "nowhere"]
    for name, along in ALONG.items():
        assert tasks[name]["strengths"] == pytest.approx([along], abs=0.25)
        [[low, high]] = tasks[name]["intervals"]
        assert low < tasks[name]["strengths"][0] < high < low + 1.0
        assert tasks[name]["examples"] == 150
        assert (tasks[name]["tokens"], tasks[name]["judged_by"]) == (450, "task")
        assert 0.5 < tasks[name]["weight"] < 1.0
    assert [tasks[name]["verdict"] for name in ALONG] == ["steer", "steer", "tuned"]
    assert tasks["nowhere"]["used"]["strengths"] == [0.0]
    assert tasks["far"]["nll_steered"] < tasks["far"]["nll_tuned"] - 0.1
    assert tasks["far"]["gain_over_tuned"]["low"] > 0.0


def test_without_the_guard_every_task_is_steered(four):
    for task in found(four, guard=False)["tasks"]:
        assert task["used"]["strengths"] == task["strengths"]
        assert task["used"]["intervals"] == task["intervals"]


def test_the_record_is_plain(record):
    assert json.loads(json.dumps(record["tasks"])) == record["tasks"]


def test_a_file_knows_the_tasks(four, record, tmp_path):
    save_table(four, tmp_path / "table.safetensors", metadata={"global_step": "3"})
    again, metadata = load_table(tmp_path / "table.safetensors")
    assert (again.tasks, metadata) == (four.tasks, {"global_step": "3"})
    assert found(again)["tasks"] == record["tasks"]


def test_masks_and_parts_of_a_table_keep_the_tasks(four):
    assert four.narrow(0.5).tasks == four.select(four.position == 0).tasks == four.tasks


def test_a_stream_says_the_same_as_a_table_of_everything():
    data, tasks = tokens(240)
    of_table = found(table(data, tasks, alpha=1e-9), Steering([KLGradient()], alpha=1e-9, penalty=0.0))
    stream = reference.stream(data, tasks=tasks)
    of_stream = found(stream, Steering([KLGradient()], alpha=None))
    assert len(of_stream["tasks"]) == 3
    for one, other in zip(of_stream["tasks"], of_table["tasks"], strict=True):
        assert one["strengths"] == pytest.approx(other["strengths"], rel=1e-3, abs=1e-4)
        assert one["gain_over_tuned"] == pytest.approx(other["gain_over_tuned"], abs=1e-4)
        assert (one["task"], one["used"]["rules"]) == (other["task"], other["used"]["rules"])


@pytest.mark.parametrize("names", [(None,), ("only",)])
def test_one_kind_of_examples_needs_no_tasks(names):
    data, tasks = tokens(60, names=names)
    assert found(table(data, tasks))["tasks"] == []


def test_a_task_too_small_to_judge_follows_the_others():
    """Three examples of the one task against two hundred of the other, both of the same kind."""
    data, _ = tokens(609, names=("far",))
    tasks = {example: "small" if example < 3 else "large" for example in data.example.tolist()}
    record = found(table(data, tasks))
    small = next(task for task in record["tasks"] if task["task"] == "small")
    assert (small["examples"], small["judged_by"]) == (3, "pool")
    assert small["verdict"] == record["verdict"] == "steer"
    assert small["strengths"] == pytest.approx(record["strengths"], abs=0.3)


def test_sure_harm_is_not_outvoted(monkeypatch):
    """Even where the tasks' strengths are the pool's, a task that these surely harm leaves them."""
    monkeypatch.setattr("svd_lightning.calibration.pooling.PRIORS", (math.inf,))
    data, tasks = tokens(1800, names=("far", "far", "far", "back"))
    record = found(table(data, tasks))
    verdicts = {task["task"]: (task["verdict"], task["judged_by"]) for task in record["tasks"]}
    assert record["verdict"] == "steer"
    assert verdicts["far"] == ("steer", "pool")
    assert verdicts["back"][0] != "steer"
    assert verdicts["back"][1] == "task"


@pytest.mark.parametrize("penalty", [0.0, -math.inf])
def test_held_out_tokens_are_steered_as_their_task_is(penalty):
    data, tasks = tokens(240)
    steering = Steering([NaturalGradient()], strengths=[0.5], alpha=0.2, penalty=penalty)
    own = {"far": steering.with_strengths([1.5]), "back": Steering([Temperature()], strengths=[2.0], alpha=0.2)}
    own["back"] = own["back"].with_penalty(penalty)
    both = TaskSteering(steering, own)
    whole = table(data, tasks, alpha=0.2)
    record = describe_tasks(whole, both, tasks)
    assert [part["task"] for part in record["tasks"]] == ["back", "far", "nowhere"]
    log_probs = torch.empty(len(data), dtype=torch.float64)
    for i, example in enumerate(data.example.tolist()):
        one = both.of_task(tasks.get(example)).with_penalty(0.0)
        log_probs[i] = one(data.tuned[i], data.base[i]).log_softmax(-1)[data.labels[i]]
    assert record["nll_steered"] == pytest.approx(-log_probs.mean().item(), rel=1e-5)
    parts = {
        task: whole.select(torch.isin(whole.example, examples))
        for task, examples in by_task(whole.example, tasks).items()
    }
    right = sum(
        describe(part, both.of_task(task))["accuracy_steered"] * part.num_tokens for task, part in parts.items()
    )
    assert record["accuracy_steered"] == pytest.approx(right / len(data))
    decoded = [(describe(part, both.of_task(task)), part) for task, part in parts.items()]
    weights = [part.covered.sum().item() if penalty == -math.inf else part.num_tokens for _, part in decoded]
    mean = sum(w * one["nll_decoded_steered"] for w, (one, _) in zip(weights, decoded, strict=True)) / sum(weights)
    assert record["nll_decoded_steered"] == pytest.approx(mean)
    assert (
        describe_tasks(whole, TaskSteering(steering), tasks)["nll_steered"]
        == describe(whole, steering)["nll_steered"]
    )
