"""The page parses, holds the numbers of the record, needs nothing else, and is safe to open."""

import copy
import json
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from svd_lightning.calibration import rescore
from svd_lightning.report import load_run, page, save_calibration
from svd_lightning.report.canvas import DARK
from svd_lightning.report.words import (
    gain_text,
    intervals_text,
    prior_text,
    recipe_name,
    strengths_text,
    task_used,
    with_intervals,
)
from svd_lightning.steering import with_built_in
from tests.report.cases import CASES, corrected

_VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Checks that tags nest, and keeps text, table rows and attributes."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text, self.rows = [], [], [], "", []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


NO_TABLE = object()
"""In a table's place where no curve is looked at: each takes a while to draw."""


def written(case, folder):
    for epoch in range(2):
        save_calibration(folder, {**case.record, "epoch": epoch, "global_step": 10 * (epoch + 1)}, case.table)
    return page(load_run(folder))


@pytest.fixture(scope="module", params=CASES)
def any_case(request):
    return CASES[request.param]()


@pytest.fixture(scope="module")
def text(any_case, tmp_path_factory):
    """The page of the case; to draw its figures takes a second or two."""
    return written(any_case, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def one():
    return CASES["one-rule"]()


def test_a_correction_in_use_is_named(one, tmp_path):
    text = " ".join(Page(written(corrected(one), tmp_path)).text.split())
    assert "In use: calibrated head, which reads no base" in text
    assert "+0.3000 [+0.2000, +0.4000]" in text
    assert "0.01001.0" in text.replace(" ", ""), "drift and cost"
    assert "NLL, as used1.2500" in text.replace(" 1.2500", "1.2500")
    assert "the tuned model as it is, strength" not in text


def test_the_page_nests_and_holds_every_number(any_case, text):
    found, record = Page(text), any_case.record
    assert record["message"][1:] in found.text
    for candidate in record["candidates"]:
        scores = [f"{candidate['nll']:.4f}", f"{candidate['nll_decoded']:.4f}", f"{candidate['accuracy']:.1%}"]
        name = (
            recipe_name(candidate["rules"], candidate["strengths"])
            + candidate["estimator"]
            + (f"⚠ {candidate['warning']}" if candidate["warning"] else "")
        )
        row = [name, strengths_text(candidate["strengths"]), gain_text(candidate["gain"]), "", "", *scores]
        assert row in found.rows
    for choice in record["sweep"]:
        assert any(
            row[:2] == [f"{choice['alpha']:g}", f"{choice['coverage']:.1%}"]
            and row[-1] == gain_text(choice["gain"])
            for row in found.rows
        )
    for name in ("nll_base", "nll_tuned"):
        assert f"{record[name]:.4f}" in found.text
    assert (gain_text(record["gain_over_control"]) in found.text) == (record["rules"] != ["Temperature"])


def test_the_page_needs_nothing_else(text):
    found = Page(text)
    assert not {"script", "link", "img", "iframe", "object"} & set(found.tags)
    sources = [value for name, value in found.attributes if name in ("src", "href", "xlink:href", "action")]
    assert all(value.startswith("#") for value in sources)
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert "@import" not in text
    assert "url(http" not in text
    assert len(text.encode()) < 1_000_000


def test_each_figure_is_an_svg_of_its_own_with_a_heading_and_an_explanation(text):
    parts = text.split("<figure>")[1:]
    assert len(parts) >= 4
    for part in parts:
        drawing = part[part.index("<svg") : part.index("</svg>") + 6]
        assert ElementTree.fromstring(drawing).get("viewBox")
        assert 'id="figure' not in drawing
        assert not any(colour in drawing for colour in DARK), "every colour follows the page's scheme"
        assert part.startswith("<h3>")
        assert len(part[part.index("<figcaption") :]) > 60
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text


def test_what_is_in_use_is_marked_once(text):
    assert text.count("<tr class=used>") == 1
    assert "In use: <strong>" in text


@pytest.mark.parametrize("verdict", ["steer", "control", "tuned"])
def test_every_verdict_has_its_own_lead(verdict, one, tmp_path):
    control, chosen = one.record["candidates"][:2]
    used = {"steer": chosen, "control": control}.get(verdict)
    if used is None:
        used = {"rules": ["KLGradient"], "strengths": [0.0], "gain": {"mean": 0.0, "low": 0.0, "high": 0.0}}
    shown = {name: used[name] for name in ("rules", "strengths", "gain")}
    save_calibration(tmp_path, {**one.record, "verdict": verdict, "used": shown}, NO_TABLE)
    text = page(load_run(tmp_path))
    expected = {
        "steer": "KLGradient",
        "control": recipe_name(["Temperature"], control["strengths"]),
        "tuned": "the tuned model as it is",
    }
    assert f"In use: <strong>{expected[verdict]}</strong>" in text
    assert text.count("<tr class=used>") == 1


def test_intervals_stand_by_the_strengths_and_old_records_have_none(one, tmp_path):
    bounds = intervals_text(one.record["intervals"])
    assert bounds.startswith("[")
    save_calibration(tmp_path, one.record, NO_TABLE)
    text = page(load_run(tmp_path))
    assert text.count(bounds) >= 2  # below the table, and among the settings
    old = copy.deepcopy(one.record)
    for part in (old, old["used"], *old["candidates"]):
        del part["intervals"]
    save_calibration(tmp_path, old, NO_TABLE)
    assert bounds not in page(load_run(tmp_path))


def test_names_and_messages_are_escaped(one, tmp_path):
    bad = "<script>alert('x')</script>&\"$title"
    folder = tmp_path / "<b>run"
    folder.mkdir()
    candidates = [{**one.record["candidates"][0], "rules": [bad], "estimator": bad, "warning": bad}]
    texts = {"message": bad, "warning": bad, "rules": [bad], "estimator": bad}
    save_calibration(folder, {**one.record, **texts, "candidates": candidates}, NO_TABLE)
    (folder / "config.yaml").write_text(f"key: {bad}\n")
    text = page(load_run(folder))
    found = Page(text)
    assert "script" not in found.tags
    assert "b" not in found.tags
    assert found.text.count(bad) >= 6, "and they are all there, as text"


def test_the_test_split_stands_beside_the_calibration_split(one, tmp_path):
    save_calibration(tmp_path, one.record, NO_TABLE)
    half = one.table.select(one.table.example < 20).narrow(0.1)
    again = rescore(half, one.record["candidates"], with_built_in([]), penalty=one.steering.penalty)
    test = {name: one.record[name] for name in ("nll_base", "nll_tuned", "nll_decoded_tuned", "accuracy_tuned")}
    test |= {"tokens": 60, "examples": 20, "candidates": again}
    (tmp_path / "test.json").write_text(json.dumps(test))
    found = Page(page(load_run(tmp_path)))
    for candidate in again:
        scores = [f"{candidate['nll']:.4f}", f"{candidate['nll_decoded']:.4f}", f"{candidate['accuracy']:.1%}"]
        assert any(row[-3:] == scores and candidate["estimator"] in row[0] for row in found.rows)
    assert "60 tokens of 20 examples" in found.text


def test_steering_without_a_mask_has_a_page_without_curves(one, tmp_path):
    record = {**one.record, "alpha": None, "penalty": 0.0}
    save_calibration(tmp_path, record, NO_TABLE)
    found = Page(page(load_run(tmp_path)))
    assert "no mask" in found.text
    assert "curves are left out" in found.text


@pytest.mark.parametrize("guard", [True, False])
def test_tasks_are_shown_with_what_each_is_decoded_with(guard, tmp_path):
    case = CASES["tasks"]()
    record = {**case.record, "guard": guard}
    save_calibration(tmp_path, record, NO_TABLE)
    shown = Page(page(load_run(tmp_path)))
    for task in record["tasks"]:
        strengths = "".join(with_intervals(task))
        assert [
            task["task"],
            str(task["examples"]),
            f"{task['weight']:.0%}",
            strengths,
            gain_text(task["gain_over_tuned"]),
            task_used(task, guard=guard),
        ] in shown.rows
    assert prior_text(record["tasks"][0]["prior_examples"]) in shown.text
    assert "NaturalGradient, task by task" in shown.text


def test_without_tasks_there_is_no_word_of_them(one, tmp_path):
    save_calibration(tmp_path, one.record, NO_TABLE)
    assert "Tasks" not in page(load_run(tmp_path))


def test_the_check_by_decoding_is_shown_with_answers_that_differ(one, tmp_path):
    entry = {"value": 0.5, "gain": -0.25, "low": -0.4, "high": -0.1}
    names = ("rouge_l", "repeated_trigrams", "length_error")
    texts = [{"prompt": "<b>", "reference": "Lima", "tuned": "Lima", "steered": "so so so"}]
    check = {"metrics": {name: {"tuned": {"value": 0.25}, "steered": entry} for name in names}, "texts": texts}
    record = {**one.record, "decoding": {**check, "examples": 24, "worse": ["repeated_trigrams"]}}
    save_calibration(tmp_path, record, NO_TABLE)
    shown = Page(page(load_run(tmp_path)))
    assert ["ROUGE-L", "25.0%", "50.0%", "-25.0 [-40.0, -10.0]"] in shown.rows
    assert ["repeated trigrams⚠ surely worse", "25.0%", "50.0%", "-25.0 [-40.0, -10.0]"] in shown.rows
    assert ["length error", "0.2", "0.5", "-0.2 [-0.4, -0.1]"] in shown.rows
    assert "24 calibration examples decoded freely" in shown.text
    assert [row for row in shown.rows if len(row) == 2 and row[0] in texts[0]] == [
        ["prompt", "<b>"],
        ["reference", "Lima"],
        ["tuned", "Lima"],
        ["steered", "so so so"],
    ]
    save_calibration(tmp_path / "without", one.record, NO_TABLE)
    assert "decoded freely" not in page(load_run(tmp_path / "without"))


def test_answers_to_questions_are_shown_where_there_are_some(tmp_path):
    save_calibration(tmp_path, CASES["one-rule"]().record, NO_TABLE)
    entry = {"value": 0.5, "gain": 0.0125, "low": -0.02, "high": 0.04}
    part = {
        "questions": 8,
        "metrics": {name: {"tuned": {"value": 0.375}, "paper": entry} for name in ("MC1", "MC2")},
    }
    found = {
        "distributions": {"paper": {"rules": ["KLGradient"], "strengths": [3.0], "estimator": "Mean"}},
        **part,
        "tasks": {"<b>": part, "none": {"questions": 0, "metrics": {}}},
    }
    (tmp_path / "test_metrics.json").write_text(json.dumps(found))
    shown = Page(page(load_run(tmp_path)))
    assert shown.rows.count(["tuned", "37.5%", "37.5%"]) == 2
    assert shown.rows.count(["paperKLGradient, 3", *["50.0% +1.2 [-2.0, +4.0]"] * 2]) == 2
    assert shown.text.count("8 questions.") == 2
    assert "Choices of <b>" in shown.text
    (tmp_path / "test_metrics.json").write_text(json.dumps({**found, "questions": 0, "tasks": {}}))
    assert "Choices" not in page(load_run(tmp_path))
