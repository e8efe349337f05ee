"""The table of a sweep, and what is read for it."""

import csv
import io
import json

import pytest

from svd_lightning.commands.sweep.cells import Combination
from svd_lightning.commands.sweep.grid import Found, as_csv, as_markdown, rows
from svd_lightning.commands.sweep.published import PublishedTable
from svd_lightning.commands.sweep.results import Measurement, measurements, strengths
from svd_lightning.commands.sweep.sweep_file import Sweep

START = Combination({"peft": "lora", "model": "tiny"}, {"peft": "lora", "model": "A"}, ())
PUBLISHED = PublishedTable(
    "somewhere",
    1,
    ("x", "y", "mean"),
    (
        ({"peft": "lora", "model": "A", "method": "warm_start"}, (1.0, 2.0, 1.5)),
        ({"peft": "lora", "model": "A", "method": "svdecode"}, (3.0, 4.0, 3.5)),
        ({"peft": "lora", "model": "A", "method": "tad"}, (5.0, 6.0, 5.5)),
    ),
)


def sweep(**options):
    options.setdefault("axes", {"peft": {"lora": {}}, "model": {"A": {}}})
    return Sweep(name="s", **{"columns": {"x": "MC1", "y": "MC2"}, "averages": {"mean": ["x", "y"]}, **options})


def evaluation(**labels):
    return Combination(labels, labels, ())


def measured(distribution, *values, **options):
    return [Measurement(f"MC{i}", distribution, value, **options) for i, value in enumerate(values, start=1)]


def test_rows_are_distributions_and_averages_need_all_their_parts():
    found = [Found(START, evaluation(), [*measured("base", 1.0), *measured("tuned", 2.0, 4.0, 9.0)])]
    base, tuned = rows(sweep(), found)
    assert (base.labels, base.distribution) == ({"peft": "lora", "model": "tiny"}, "base")
    assert {column: one.value for column, one in base.values.items()} == {"x": 1.0}
    assert {column: one.value for column, one in tuned.values.items()} == {"x": 2.0, "y": 4.0, "mean": 3.0}


def test_the_tasks_of_a_mixture_are_columns():
    both = [*measured("tuned", 1.0, task="a"), *measured("tuned", 3.0, task="b"), *measured("tuned", 9.0)]
    (row,) = rows(sweep(columns={"y": "b/MC1", "x": "a/MC1"}), [Found(START, evaluation(), both)])
    values = {column: one.value for column, one in row.values.items()}
    assert list(values.items()) == [("y", 3.0), ("x", 1.0), ("mean", 2.0)], "in the order of the sweep"


def test_without_columns_there_is_all_that_was_measured():
    both = [*measured("tuned", 1.0, 3.0), *measured("tuned", 5.0, task="a")]
    (row,) = rows(sweep(columns={}, averages={}), [Found(START, evaluation(), both)])
    assert {column: one.value for column, one in row.values.items()} == {"MC1": 1.0, "MC2": 3.0, "a/MC1": 5.0}


@pytest.mark.parametrize(
    ("labels", "distribution", "expected"),
    [
        ({}, "tuned", [1.0, 2.0, 1.5]),
        ({}, "steered", [3.0, 4.0, 3.5]),
        ({"method": "tad"}, "steered", [5.0, 6.0, 5.5]),
        ({"method": "tad"}, "tuned", [1.0, 2.0, 1.5]),
        ({}, "base", [None] * 3),
    ],
)
def test_published_figures_go_beside_the_right_row(labels, distribution, expected):
    file = sweep(evaluate={"method": {"tad": {}}})
    (row,) = rows(file, [Found(START, evaluation(**labels), measured(distribution, 2.0, 4.0))])
    assert [row.figure(PUBLISHED, column) for column in PUBLISHED.columns] == expected
    assert row.figure(None, "x") is None


def test_csv_has_a_line_per_number():
    both = [*measured("steered", 2.0, gain=(0.5, -0.25, 1.0)), *measured("base", 1.0)]
    found = [Found(START, evaluation(), both, {"steered": {"Temperature": -0.125}})]
    lines = list(csv.DictReader(io.StringIO(as_csv(rows(sweep(), found), PUBLISHED))))
    assert lines[1] == {
        **{"peft": "lora", "model": "tiny", "distribution": "steered", "strengths": "Temperature -0.125"},
        **{"column": "x", "unit": "%", "judge": ""},
        **{"value": "2.0000", "gain": "0.5000", "low": "-0.2500", "high": "1.0000"},
        **{"paper": "3.0000", "difference": "-1.0000"},
    }
    assert (lines[0]["distribution"], lines[0]["gain"], lines[0]["paper"]) == ("base", "", "")


def test_rows_are_in_the_order_of_the_sweep_and_of_the_distributions():
    file = sweep(axes={"peft": {"lora": {}, "ia3": {}}})
    starts = [Combination({"peft": name}, {"peft": name}, ()) for name in ("ia3", "lora")]
    names = ("joint", "steered", "paper", "control", "tuned", "base")
    measurements = [one for name in names for one in measured(name, 1.0)]
    found = [Found(start, evaluation(), measurements) for start in starts]
    assert [(row.labels["peft"], row.distribution) for row in rows(file, found)] == [
        (peft, name)
        for peft in ("lora", "ia3")
        for name in ("base", "tuned", "control", "paper", "steered", "joint")
    ]


def test_markdown_has_a_line_per_row():
    by_judge = Measurement("truthful", "base", 1.25, judge="nearest reference")
    both = [*measured("steered", 2.0, gain=(0.5, -0.25, 1.0)), by_judge]
    found = [Found(START, evaluation(), both, {"steered": {"KLGradient": 1.5, "Temperature": -0.04567}})]
    text = as_markdown(rows(sweep(columns={"x": "MC1", "truth": "truthful"}), found), PUBLISHED)
    assert text.splitlines() == [
        "In parentheses the gain over tuned with its paired 95 % bootstrap interval. Published figures, and ours "
        "minus them: somewhere, Table 1. tiny stands where the paper has A.",
        "",
        "| peft | model | distribution | strengths | truth by nearest reference, % | x, % |",
        "|---|---|---|---|---|---|",
        "| lora | tiny | base |  | 1.2 |  |",
        "| lora | tiny | steered | KLGradient 1.5, Temperature -0.0457 |  "
        "| 2.0 (+0.5 [-0.2, +1.0]); paper 3.00, -1.0 |",
    ]


def test_nothing_measured_gives_an_empty_table(tmp_path):
    assert (measurements(tmp_path), strengths(tmp_path, tmp_path)) == ([], {})
    assert rows(sweep(), [Found(START, evaluation(), [])]) == []


def entry(value, gain=None):
    return {"value": value} | ({} if gain is None else {"gain": gain, "low": gain - 0.1, "high": gain + 0.1})


def test_metrics_of_a_test(tmp_path):
    mc1 = {"base": entry(0.1, -0.1), "tuned": entry(0.2), "chosen": entry(0.3, 0.1), "paper": entry(0.3, 0.1)}
    mc1 |= {"steered": entry(0.3, 0.1), "joint": {"value": 0.4, "gain": 0.2, "low": None, "high": None}}
    part = {"metrics": {"MC1": mc1, "NLL": {"tuned": entry(5.0)}, "perplexity": {"tuned": entry(148.0)}}}
    same = {"rules": ["KLGradient"], "strengths": [1.0], "estimator": "Mean"}
    whole = {**part, "tasks": {"boolq": part}, "distributions": {"paper": same, "chosen": same, "steered": same}}
    write(tmp_path / "test" / "test_metrics.json", whole)
    found = {(one.name, one.distribution): one for one in measurements(tmp_path)}
    names = ("base", "tuned", "steered", "joint")
    assert set(found) == {
        *((metric, name) for metric in ("MC1", "boolq/MC1") for name in names),
        *((metric, "tuned") for metric in ("NLL", "boolq/NLL")),
    }
    assert found["MC1", "steered"].gain == pytest.approx((10.0, 0.0, 20.0))
    assert (found["MC1", "joint"].gain, found["MC1", "tuned"].gain) == (None, None)
    assert (found["MC1", "tuned"].value, found["MC1", "tuned"].unit) == (20.0, "%")
    assert (found["boolq/NLL", "tuned"].value, found["boolq/NLL", "tuned"].unit) == (5.0, "nats")


def test_strengths_are_those_of_the_test(tmp_path):
    joint = {"rules": ["KLGradient", "Temperature"], "strengths": [2.0, -1.0], "estimator": "LineSearch"}
    write(tmp_path / "test" / "test_metrics.json", {"distributions": {"joint": joint}})
    assert strengths(tmp_path, tmp_path / "fit") == {"joint": {"KLGradient": 2.0, "Temperature": -1.0}}


@pytest.mark.parametrize(("again", "expected"), [(False, 1.0), (True, 2.0)])
def test_strengths_without_a_test_are_those_of_the_last_calibration(again, expected, tmp_path):
    for folder, strength in (("fit", 1.0), *([("one/calibrate", 2.0)] if again else [])):
        used = {"rules": ["KLGradient"], "strengths": [strength]}
        write(tmp_path / folder / "calibration.json", {"used": used})
    assert strengths(tmp_path / "one", tmp_path / "fit") == {"steered": {"KLGradient": expected}}


def test_measures_of_a_judge(tmp_path):
    base = {"answers": 3, "judged": 3, "accuracy": 0.5, "truthful": None, "abstained": {"truthful": 3}}
    gains = {"base": {"accuracy": {"mean": 0.25, "low": 0.0, "high": 0.5}, "truthful": None}}
    part = {"rows": 3, "systems": {"base": base, "tuned": {**base, "accuracy": 0.25}}, "gains": gains}
    judge = {"label": "nearest reference", "about": "…"}
    write(tmp_path / "judge" / "judged.json", {**part, "judge": judge, "tasks": {"boolq": part}})
    base, tuned, *rest = measurements(tmp_path)
    assert (base.name, base.value, base.gain) == ("named", 50.0, (25.0, 0.0, 50.0))
    assert (tuned.name, tuned.value, tuned.gain) == ("named", 25.0, None)
    assert [one.name for one in rest] == ["boolq/named"] * 2
    assert base.judge is None  # an option is named or not


def test_a_verdict_says_whose_it_is(tmp_path):
    part = {"rows": 3, "systems": {"tuned": {"answers": 3, "truthful": 0.5}}, "gains": {}}
    write(tmp_path / "judge" / "judged.json", {**part, "judge": {"label": "nearest reference", "about": "…"}})
    (one,) = measurements(tmp_path)
    assert (one.metric, one.value, one.judge) == ("truthful", 50.0, "nearest reference")


def write(path, content):
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
