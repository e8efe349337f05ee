"""Which combinations a sweep file stands for."""

import pytest

from svd_lightning.commands.sweep.cells import evaluations, options_in, warm_starts
from svd_lightning.commands.sweep.sweep_file import load_sweep
from svd_lightning.errors import InputError

SWEEP = """
include: below/grid.yaml
only: {peft: [lora, ia3]}
fit: {seed_everything: 1}
evaluate:
  alpha:
    0.1: {}
    0.2: {model.steering.alpha: 0.2}
"""
GRID = """
fit: {config: run.yaml}
axes:
  model:
    A: {config: a.yaml}
    B: {config: b.yaml}
  peft:
    lora: {model.adapter: lora.yaml}
    ia3: {model.adapter: ia3.yaml}
    other: {model.adapter: other.yaml}
exceptions:
  - where: {model: [B, C], peft: lora}
    use: {model.adapter: lora_b.yaml}
"""


@pytest.fixture
def sweep(tmp_path):
    folder = tmp_path / "below"
    folder.mkdir()
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    (folder / "grid.yaml").write_text(GRID)
    for name in "ab":
        (folder / f"{name}.yaml").write_text(f"model: {{backbone: {{name_or_path: org/{name}}}}}")
    return load_sweep(tmp_path / "sweep.yaml")


def ends(combination):
    return [(option, str(value).rpartition("/")[2]) for option, value in combination.options]


def test_every_combination_once_with_what_is_included_and_the_exceptions(sweep):
    starts = warm_starts(sweep)
    assert [start.name for start in starts] == ["A_lora", "A_ia3", "B_lora", "B_ia3"]
    assert ends(starts[0]) == [
        ("config", "run.yaml"),
        ("seed_everything", "1"),
        ("config", "a.yaml"),
        ("model.adapter", "lora.yaml"),
    ]
    assert ends(starts[2])[-1] == ("model.adapter", "lora_b.yaml")
    assert ends(starts[3])[-1] == ("model.adapter", "ia3.yaml")
    assert [each.name for each in evaluations(sweep)] == ["0.1", "0.2"]


def test_files_are_those_beside_the_file_that_names_them(sweep, tmp_path):
    assert dict(warm_starts(sweep)[0].options)["model.adapter"] == str(tmp_path / "below" / "lora.yaml")


def test_only_some(sweep):
    starts = warm_starts(sweep, only={"model": ["B"], "alpha": ["0.2"]})
    assert [start.name for start in starts] == ["B_lora", "B_ia3"]
    assert [each.labels for each in evaluations(sweep, only={"alpha": ["0.2"]})] == [{"alpha": "0.2"}]


def test_an_override_of_an_axis_leaves_one_value_under_its_name(sweep):
    override = ("model.backbone.name_or_path", "../models/tiny")
    starts = warm_starts(sweep, overrides=[override])
    assert [start.name for start in starts] == ["tiny_lora", "tiny_ia3"]
    assert starts[0].published == {"model": "A", "peft": "lora"}
    assert starts[0].options[-1] == override
    for chosen in (["B"], ["B", "A"]):  # the first that is named
        some = warm_starts(sweep, only={"model": chosen}, overrides=[override])
        assert [start.published["model"] for start in some] == ["B", "B"]
    assert [start.name for start in warm_starts(sweep, overrides=[("model.adapter", "x/dora.yaml")])] == [
        "A_dora",
        "B_dora",
    ]


def test_another_override_leaves_the_grid_as_it_is(sweep):
    starts = warm_starts(sweep, overrides=[("trainer.max_epochs", "2")])
    assert [start.name for start in starts] == ["A_lora", "A_ia3", "B_lora", "B_ia3"]
    assert all(start.options[-1] == ("trainer.max_epochs", "2") for start in starts)


def test_options_in_files_count(tmp_path):
    path = tmp_path / "part.yaml"
    path.write_text("model: {optimizer: {class_path: A, init_args: {lr: 1}}, steering: {alpha: null}}")
    assert options_in({"config": str(path), "data.init_args.limit": 3}) == {
        "model.optimizer.class_path",
        "model.optimizer.lr",
        "model.steering.alpha",
        "data.limit",
    }


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ({"peft": ["dora"]}, "only: expected peft of lora, ia3, got peft=dora"),
        ({"peft": ["other"]}, "only: expected peft of lora, ia3, got peft=other"),
        ({"size": ["1"]}, "only: expected an axis of model, peft, alpha, got size=1"),
    ],
)
def test_what_there_is_not_is_refused(sweep, only, message):
    with pytest.raises(InputError, match=message):
        warm_starts(sweep, only=only)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("axis: {a: {b: {}}}", "got axis"),
        ("fit: {}", "expected a sweep with axes"),
        ("axes: {a: [b]}", "axis 'a': expected options by label"),
        ("axes: {a: {b: c.yaml}}", "axis 'a': expected options by label"),
        ("{axes: {a: {b: {}}}, only: {a: [c]}}", "only: expected a of b, got 'c'"),
        ("{axes: {a: {b: {}}}, verbs: [fit]}", "verbs: expected test"),
        ("{axes: {a: {b: {}}}, verbs: [test, judge]}", "verbs: expected predict"),
        ("include: nowhere.yaml", "nowhere.yaml: expected a readable"),
        ("[1]", "expected a mapping, got list"),
    ],
)
def test_bad_files_are_refused(tmp_path, text, message):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        load_sweep(tmp_path / "bad.yaml")
