"""One adapter, two tasks: through the command line from rows with a `task` to completions of mixed batches."""

import copy
import json

import pytest
import torch

from svd_lightning.cli import main
from svd_lightning.commands.demo.task import BASE, TASK
from svd_lightning.commands.inspect.subject import open_subject
from svd_lightning.console import console
from svd_lightning.decoding.generation import generate, generation_config, rows_of
from svd_lightning.errors import InputError
from svd_lightning.report import calibration_tables
from svd_lightning.runs import open_run
from tests.chain import diary_data, read_jsonl, write_config, write_jsonl

COUNTS = {"train": 96, "calibration": 96, "validation": 8, "test": 24, "predict": 6}
QUICK = ("--calibration.alphas=[]", "--calibration.others=false", "--calibration.corrections=[]")


def mixed(count, *, seed, prefix):
    """Answers in the task's climate, and in the base's own: the adapter's direction helps one of them only."""
    pairs = zip(*(kind.sample(count, seed=seed, prefix=prefix) for kind in (TASK, BASE)), strict=True)
    rows = [{**pair[i % 2], "task": ("climate", "plain")[i % 2]} for i, pair in enumerate(pairs)]
    return [*rows[:-1], {name: value for name, value in rows[-1].items() if name != "task"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data and a configuration."""
    folder = tmp_path_factory.mktemp("tasks")
    for seed, (split, count) in enumerate(COUNTS.items()):
        write_jsonl(folder / f"{split}.jsonl", mixed(count, seed=seed, prefix=split))
    write_config(folder / "config.yaml", folder, folder)
    return folder


@pytest.fixture(scope="module")
def run(folder):
    """Runs a verb; returns its run folder."""

    def start(verb, name, *arguments):
        calibration = QUICK if verb != "predict" else ()
        logger = ("--trainer.logger.init_args.name", name)
        main([verb, "--config", str(folder / "config.yaml"), *logger, *calibration, *arguments])
        return folder / name / "version_0"

    return start


@pytest.fixture(scope="module")
def fitted(run):
    return run("fit", "fit")


@pytest.fixture(scope="module")
def checkpoint(fitted):
    return str(fitted / "checkpoints/last.ckpt")


def test_a_checkpoint_holds_the_strength_of_every_task(fitted, checkpoint):
    record = json.loads((fitted / "calibration.json").read_text())
    assert [(task["task"], task["examples"]) for task in record["tasks"]] == [("climate", 48), ("plain", 47)]
    plain = torch.load(checkpoint, weights_only=True)["calibration"]["tasks"]
    assert [task["used"] for task in plain] == [task["used"] for task in record["tasks"]]
    module = open_run(fitted)
    for task in plain:
        assert list(module.task_steering.of_task(task["task"]).strengths) == task["used"]["strengths"]
    assert module.task_steering.of_task("another") is module.steering


def test_a_task_is_inspected_with_its_own_strengths(fitted):
    def strengths(task):
        return open_subject(fitted, task=task).steering.strengths

    module = open_run(fitted)
    assert strengths("plain") == module.own_steering["plain"].strengths
    assert strengths(None) == module.steering.strengths
    with pytest.raises(InputError, match="task: expected one of climate, plain, got 'boolq'"):
        strengths("boolq")


def test_a_task_decoded_as_all_are_has_their_steering(fitted):
    module = open_run(fitted)
    record = copy.deepcopy(module.calibration)
    record["tasks"][0]["used"] = record["used"]
    record["tasks"][1]["used"] = {**record["used"], "strengths": [7.0]}
    module.adopt(record)
    assert module.task_steering.of_task("climate") is module.steering
    assert module.own_steering["plain"].strengths == (7.0,)


def test_the_tasks_are_shown(checkpoint, capsys):
    record = torch.load(checkpoint, weights_only=True)["calibration"]
    for part in calibration_tables(record):
        console().print(part)
    shown = capsys.readouterr().out
    assert "Tasks, each with strengths of its own" in shown
    for task in record["tasks"]:
        assert f"{task['strengths'][0]:.3g}" in next(line for line in shown.splitlines() if task["task"] in line)


def test_resuming_keeps_the_tasks(run, checkpoint):
    again = run("fit", "resumed", "--ckpt_path", checkpoint, "--trainer.max_epochs", "2")
    module = open_run(again)
    assert set(module.own_steering) == {"climate", "plain"}
    assert module.calibration["epoch"] == 1


def test_held_out_tokens_are_steered_as_their_task_is(run, checkpoint, fitted):
    """In test from the table, in validation from the logits: the same NLL, that of each task apart."""
    tested = json.loads((run("test", "test", "--ckpt_path", checkpoint) / "test.json").read_text())
    parts = {task["task"]: task for task in tested["tasks"]}
    assert {name: part["examples"] for name, part in parts.items()} == {"climate": 12, "plain": 11}
    used = {task["task"]: task["used"] for task in json.loads((fitted / "calibration.json").read_text())["tasks"]}
    for name, part in parts.items():
        assert part["strengths"] == pytest.approx(used[name]["strengths"])
    module = open_run(fitted)
    for batch in loose_data(module, fitted.parents[1]).test_dataloader():
        module.likelihood.add(module.peft_model, batch, module.task_steering)
    nll = module.likelihood.result(module.task_steering)["nll_steered"]
    assert nll == pytest.approx(tested["nll_steered"], rel=1e-4)


def loose_data(module, folder):
    """The data outside a Trainer, in batches of mixed tasks."""
    data = diary_data(folder, eval_batch_size=6)
    data.tokenizer = module.tokenizer
    return data


@pytest.fixture(scope="module")
def far(checkpoint, tmp_path_factory):
    """The checkpoint with strengths so far apart that a row with another's would show it."""
    content = torch.load(checkpoint, weights_only=True)
    for task, strength in zip(content["calibration"]["tasks"], (60.0, -40.0), strict=True):
        task["used"] = {**task["used"], "rules": ["KLGradient"], "strengths": [strength]}
    path = tmp_path_factory.mktemp("far") / "far.ckpt"
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}],
    ids=["greedy", "beams", "two of four beams"],
)
def test_mixed_batches_decode_each_row_as_its_task_alone(run, far, folder, options):
    module = open_run(far)
    [batch] = loose_data(module, folder).predict_dataloader()
    assert batch["task"] == ["climate", "plain", "climate", "plain", "climate", None]
    ways = {"config": generation_config({"max_new_tokens": 12, **options}), "tokenizer": module.tokenizer}
    together = generate(module.peft_model, batch, module.task_steering.of_batch(batch), **ways)

    def alone(row, task):
        return generate(module.peft_model, rows_of(batch, [row]), module.task_steering.of_task(task), **ways)[0]

    assert together == [alone(row, task) for row, task in enumerate(batch["task"])]
    assert together[0] != alone(0, "plain")
    assert together[1] != alone(1, None)


def test_predict_steers_each_row_as_its_task(run, far, folder):
    rows = read_jsonl(run("predict", "predict", "--ckpt_path", str(far)) / "predictions.jsonl")
    assert [row.get("task", "none") for row in rows] == ["climate", "plain"] * 2 + ["climate", "none"]
    module = open_run(far)
    [batch] = loose_data(module, folder).predict_dataloader()
    steering = module.task_steering.of_batch(batch)
    ways = {"config": module.generation, "tokenizer": module.tokenizer}
    assert [[row["completion"]] for row in rows] == generate(module.peft_model, batch, steering, **ways)
