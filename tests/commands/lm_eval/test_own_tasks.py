"""The tasks of the harness that a run's own data are."""

import pytest
import yaml

from svd_lightning.commands.lm_eval import own_tasks as module
from svd_lightning.commands.lm_eval.own_tasks import own_tasks
from svd_lightning.data.sources import NAMED
from svd_lightning.errors import InputError


def run_of(folder, data):
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/last.ckpt").write_bytes(b"")
    if data is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    return folder


@pytest.mark.parametrize(
    ("name", "tasks"),
    [
        ("truthfulqa", "truthfulqa_mc1,truthfulqa_mc2"),
        ("arc_challenge", "arc_challenge"),
        ("siqa", "social_iqa"),
        (
            "commonsense",
            "arc_challenge,arc_easy,boolq,hellaswag,openbookqa,piqa,social_iqa,winogrande",
        ),
    ],
)
def test_named_tasks_are_the_harness_s(name, tasks, tmp_path):
    folder = run_of(tmp_path, NAMED[name])
    assert own_tasks(str(folder)) == own_tasks(str(folder / "checkpoints/last.ckpt")) == tasks


@pytest.mark.parametrize(
    ("data", "word"), [({"class_path": "svd_lightning.data.JSONLData"}, " (JSONLData)"), (None, "")]
)
def test_other_data_get_one_line_that_names_some(data, word, tmp_path):
    with pytest.raises(InputError) as caught:
        own_tasks(str(run_of(tmp_path, data)))
    assert str(caught.value).startswith(
        f"tasks: the run's data{word} are no task of the harness; name some with --tasks"
    )


NOTHING = ["", "# nothing\n", "data:\n", "data: 5\n", "data: {class_path: A, init_args:}\n"]


@pytest.mark.parametrize("text", NOTHING)
def test_a_config_that_says_nothing_is_as_none(text, tmp_path):
    folder = run_of(tmp_path, None)
    (folder / "config.yaml").write_text(text)
    with pytest.raises(InputError, match=r"^tasks: the run's data.* are no task of the harness"):
        own_tasks(str(folder))


@pytest.mark.parametrize(
    ("text", "problem"),
    [("data: [", "cannot read"), ("- data\n", "expected options by name"), ("\0", "cannot read")],
)
def test_a_config_that_cannot_be_read_is_one_line(text, problem, tmp_path):
    folder = run_of(tmp_path, None)
    (folder / "config.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"^run: {problem}.*config\.yaml") as caught:
        own_tasks(str(folder))
    assert "\n" not in str(caught.value)


def test_the_harness_knows_these_names():
    tasks = pytest.importorskip("lm_eval.tasks", reason="the extra `eval` is not installed")
    folders = {"arc": ["arc_easy", "arc_challenge"], "siqa": ["social_iqa"], "super_glue/boolq": ["boolq"]}
    folders |= {"truthfulqa": ["truthfulqa_mc1", "truthfulqa_mc2"]}
    folders |= {name: [name] for name in ("hellaswag", "openbookqa", "piqa", "winogrande")}
    known = [name for each in folders.values() for name in each]
    listed = ",".join(
        each if isinstance(each, str) else ",".join(each.values()) for each in module._TASKS.values()
    )
    assert sorted(known) == sorted(listed.split(","))
    here = [str(tasks.__path__[0]) + f"/{folder}" for folder in folders]
    manager = tasks.TaskManager(include_path=here, include_defaults=False)
    assert [name for name in known if not manager.match_tasks([name])] == []
