"""The metrics of written answers against slow and obvious references."""

import json
import math

import pytest
from torchmetrics.text import ROUGEScore

from svd_lightning.metrics import (
    Average,
    ExactMatch,
    ExtractionAccuracy,
    JudgedRate,
    RougeL,
    both,
    exact_match,
    extract_option,
    option_label,
    repeated_trigrams,
    rouge_l,
)
from tests.metrics import written_reference
from tests.metrics.written_reference import random_cases

CASES = random_cases(200, seed=1)


def test_rouge_l_is_the_longest_common_subsequence():
    scores = [rouge_l(case["answer"], case["references"]) for case in CASES]
    wanted = [written_reference.rouge_l(case["answer"], case["references"]) for case in CASES]
    assert scores == pytest.approx(wanted, abs=1e-6)
    assert {0.0, 1.0} < set(scores), "among them none alike, quite alike, and in between"
    metric = RougeL()
    metric.update([case["answer"] for case in CASES], [case["references"] for case in CASES])
    assert metric.compute().item() == pytest.approx(sum(wanted) / len(wanted), abs=1e-6)


def test_repeated_trigrams_are_counted_one_by_one():
    texts = [" ".join(case["references"]) for case in CASES] + [
        "!!!!!!",
        "",
        "so, so, so, so",
        "Đà Lạt Đà Lạt Đà Lạt",
    ]
    for text in texts:
        assert repeated_trigrams(text) == pytest.approx(written_reference.repeated_trigrams(text))
    found = [repeated_trigrams(text) for text in texts]
    assert min(found) == 0.0
    assert found[-4:] == pytest.approx([0.75, 0.0, 0.6, 0.5])


def test_on_english_rouge_l_is_that_of_torchmetrics():
    theirs = ROUGEScore(rouge_keys="rougeL")
    theirs.update([case["answer"] for case in CASES], [case["references"] for case in CASES])
    ours = RougeL()
    ours.update([case["answer"] for case in CASES], [case["references"] for case in CASES])
    assert ours.compute().item() == pytest.approx(theirs.compute()["rougeL_fmeasure"].item(), abs=1e-6)


@pytest.mark.parametrize(
    ("answer", "references", "wanted"),
    [
        ("", ["a"], 0.0),
        ("a", [], 0.0),
        ("a", [""], 0.0),
        ("...", ["!"], 0.0),
        ("Ärger über Ähren", ["über ähren"], 0.8),
        ("Кошка сидела", ["кошка"], 2 / 3),
    ],
)
def test_rouge_l_at_the_edges(answer, references, wanted):
    assert rouge_l(answer, references) == pytest.approx(wanted, abs=1e-6)


def test_exact_match_is_equality_up_to_white_space():
    for case in CASES:
        words = [" ".join(text.split()) for text in (case["answer"], *case["references"])]
        assert exact_match(case["answer"], case["references"]) == (words[0] in words[1:])
    assert {exact_match(case["answer"], case["references"]) for case in CASES} == {True, False}
    assert not exact_match("lima", ["Lima"])
    assert not exact_match("Lima.", ["Lima"])
    assert not exact_match("Lima", [])


def test_the_option_that_stands_first_counts():
    found = [extract_option(case["answer"], case["label"]) for case in CASES]
    assert found == [written_reference.first_option(case["answer"], case["label"]) for case in CASES]
    assert {None, "true", "false", "answer1", "answer2"} == set(found)


@pytest.mark.parametrize(
    ("answer", "label", "wanted"),
    [
        ("the correct answer is solution2", "solution1", "solution2"),
        ("ending4 or ending1", "ending1", "ending4"),
        ("option2", "option1", "option2"),
        ("answer7, no: answer5", "answer1", "answer5"),
        ("Answer1", "answer1", None),
        ("option1", "answer1", None),
        ("untrue", "false", "true"),
    ],
)
def test_extraction_follows_llm_adapters_to_the_letter(answer, label, wanted):
    assert extract_option(answer, label) == wanted


def test_an_unknown_label_is_refused():
    with pytest.raises(ValueError, match=r"label: expected one of true/false, .* got 'maybe'"):
        extract_option("maybe", "maybe")


def test_every_reference_of_the_commonsense_files_names_its_option(shared):
    seen = set()
    for path in sorted((shared / "data/commonsense").glob("*.test.json")):
        rows = json.loads(path.read_text(encoding="utf-8"))
        assert all(option_label(row["output"]) == row["answer"] for row in rows), path.name
        assert all(extract_option(row["output"], row["answer"]) == row["answer"] for row in rows), path.name
        seen |= {row["answer"] for row in rows}
    assert len(seen) == 11, "true/false, solution1/2, answer1 to 5, option1/2"


@pytest.mark.parametrize("reference", ["", "It is true that cats sit", "answer9", "the correct answer is maybe"])
def test_other_references_name_no_option(reference):
    assert option_label(reference) is None


def test_abstentions_are_counted_and_left_out():
    opinions = [case["opinion"] for case in CASES]
    metric = JudgedRate()
    metric.update(opinions[:50])
    metric.update(opinions[50:])
    given = [opinion for opinion in opinions if opinion is not None]
    assert metric.compute().item() == sum(given) / len(given)
    assert metric.abstained.item() == opinions.count(None) > 0


def test_truth_and_information_together():
    """As if the abstention were tried both ways."""
    values = (True, False, None)
    for first in values:
        for second in values:
            possible = {
                one and other
                for one in ((True, False) if first is None else (first,))
                for other in ((True, False) if second is None else (second,))
            }
            assert both(first, second) is (possible.pop() if len(possible) == 1 else None)


@pytest.mark.parametrize("metric", [Average(), ExactMatch(), RougeL(), ExtractionAccuracy(), JudgedRate()])
def test_nothing_measured_is_nan(metric):
    with pytest.warns(UserWarning, match="compute"):
        assert math.isnan(metric.compute().item())


def test_as_many_references_as_answers_are_asked_for():
    with pytest.raises(ValueError, match="zip"):
        ExactMatch().update(["a", "b"], [["a"]])
