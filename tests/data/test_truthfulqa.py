import csv
import re

import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from svd_lightning.data import Example, TruthfulQA
from svd_lightning.data.truthfulqa import INSTRUCTION, PRIMERS
from svd_lightning.errors import InputError
from tests.chain import write_jsonl

HEADER = ["Type", "Category", "Question", "Best Answer", "Correct Answers", "Incorrect Answers", "Source"]


def row(i):
    return [
        "Adversarial",
        "Health",
        f"Question {i}?",
        f"best {i}",
        f"good {i}; best {i};",
        f"bad {i}; worse {i}",
        "url",
    ]


@pytest.fixture
def path(tmp_path):
    with (tmp_path / "TruthfulQA.csv").open("w", newline="") as file:
        csv.writer(file).writerows([HEADER, *map(row, range(10))])
    return tmp_path / "TruthfulQA.csv"


def test_the_best_answer_is_the_completion(path):
    assert TruthfulQA(path).load()[3] == Example("3", "Q: Question 3?\nA:", " best 3")


def test_all_answers_stay_reachable_with_the_best_one_first(path):
    question = TruthfulQA(path).references()[3]
    assert (question.correct, question.incorrect) == (("best 3", "good 3"), ("bad 3", "worse 3"))
    assert (question.id, question.category, question.best) == ("3", "Health", "best 3")


def test_every_true_answer_can_be_an_example(path):
    examples = TruthfulQA(path, all_correct_answers=True).load()
    assert [(each.id, each.completion, each.group) for each in examples[6:8]] == [
        ("3-0", " best 3", "3"),
        ("3-1", " good 3", "3"),
    ]


@pytest.mark.parametrize("options", [{}, {"all_correct_answers": True}])
def test_a_split_gives_its_questions_with_true_answers_first(path, word_tokenizer, options):
    data = TruthfulQA(path, test=2, **options)
    data.tokenizer = word_tokenizer
    questions = data.questions("test")
    assert len(questions) == 2
    assert [question.id for question in questions] == list(
        dict.fromkeys(each.split("-")[0] for each in data.split_ids("test"))
    )
    assert data.questions("predict") == questions
    i = questions[0].id
    assert questions[0].choices == (f" best {i}", f" good {i}", f" bad {i}", f" worse {i}")
    assert (questions[0].correct, questions[0].best) == ((0, 1), 0)


def test_a_question_stays_within_one_split(path, word_tokenizer):
    data = TruthfulQA(path, all_correct_answers=True, test=2, validation=1, calibration=3)
    data.tokenizer = word_tokenizer
    questions = {
        name: {each.split("-")[0] for each in data.split_ids(name)}
        for name in ("train", "calibration", "validation", "test")
    }
    assert {name: len(each) for name, each in questions.items()} == {
        "train": 4,
        "calibration": 3,
        "validation": 1,
        "test": 2,
    }
    assert len(set.union(*questions.values())) == 10
    assert len(data.split_ids("test")) == 4
    assert {each.split("-")[0] for each in data.split_ids("predict")} == questions["test"]
    assert len(data.split_ids("predict")) == 2


def test_the_hub_layout_reads_the_same(path, tmp_path):
    rows = [
        {
            "type": "Adversarial",
            "category": "Health",
            "question": f"Question {i}?",
            "best_answer": f"best {i}",
            "correct_answers": [f"good {i}", f"best {i}"],
            "incorrect_answers": [f"bad {i}", f"worse {i}"],
            "source": "url",
        }
        for i in range(10)
    ]
    hub = tmp_path / "generation"
    hub.mkdir()
    Dataset.from_list(rows).to_parquet(hub / "validation-00000-of-00001.parquet")
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: generation\n  data_files:\n"
        "  - split: validation\n    path: generation/validation-*\n---\n"
    )
    assert TruthfulQA(tmp_path).references() == TruthfulQA(path).references()


def targets(i, **change):
    mc1 = {"choices": [f"best {i}", f"bad {i}"], "labels": [1, 0]}
    mc2 = {"choices": [f"good {i}", f"best {i}", f"bad {i}", f"worse {i}"], "labels": [1, 1, 0, 0]}
    return {"question": f"Question {i}?", "mc1_targets": mc1, "mc2_targets": mc2, **change}


def test_the_multiple_choice_layout_gives_the_same_questions(path, tmp_path):
    file = write_jsonl(tmp_path / "mc.jsonl", [targets(i) for i in range(10)])
    assert TruthfulQA(file).load_questions() == TruthfulQA(path).load_questions()
    assert TruthfulQA(file).load() == TruthfulQA(path).load()
    Dataset.from_list([targets(i) for i in range(10)]).to_parquet(tmp_path / "mc.parquet")
    assert TruthfulQA(tmp_path / "mc.parquet").load_questions() == TruthfulQA(path).load_questions()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mc1_targets": {"choices": ["a", "b"], "labels": [1, 1]}}, "one right answer in 'mc1_targets', got 2"),
        ({"mc1_targets": {"choices": [], "labels": []}}, "one right answer in 'mc1_targets', got 0"),
        ({"mc2_targets": {"choices": ["a"], "labels": [1, 0]}}, "expected in 'mc2_targets'"),
        ({"mc2_targets": {"choices": ["a", " "], "labels": [1, 0]}}, "expected in 'mc2_targets'"),
        ({"mc2_targets": {"choices": ["a"], "labels": [2]}}, "expected in 'mc2_targets'"),
        ({"mc2_targets": None}, "expected in 'mc2_targets'"),
    ],
)
def test_bad_targets_are_refused(tmp_path, change, message):
    file = write_jsonl(tmp_path / "mc.jsonl", [targets(0), targets(1, **change)])
    with pytest.raises(InputError, match=f"line 2: .*{message}"):
        TruthfulQA(file).load_questions()


def test_primers_stand_before_the_question(path):
    prompt = TruthfulQA(path, primed=True).load()[3].prompt
    assert prompt.startswith(f"{INSTRUCTION}\n\nQ: {PRIMERS[0][0]}\nA: {PRIMERS[0][1]}\n\nQ: ")
    assert prompt.endswith("\n\nQ: Question 3?\nA:")
    assert prompt.count("\nA:") == len(PRIMERS) + 1


def test_primers_are_not_in_the_dataset(shared):
    questions = {words(question.question) for question in TruthfulQA(shared / "data/TruthfulQA.csv").references()}
    for primer, _ in PRIMERS:
        asked = words(primer)
        assert max(len(asked & known) / len(asked | known) for known in questions) < 0.5


def words(question):
    return frozenset(re.findall(r"\w+", question.lower()))


def test_the_default_goes_to_the_hub(monkeypatch):
    asked = []

    def read_rows(source, *, subset, split):
        asked.append((source, subset, split))
        return []

    monkeypatch.setattr("svd_lightning.data.truthfulqa.read_rows", read_rows)
    assert TruthfulQA().load() == TruthfulQA(subset="multiple_choice").load() == []
    assert asked == [
        ("truthfulqa/truthful_qa", "generation", "validation"),
        ("truthfulqa/truthful_qa", "multiple_choice", "validation"),
    ]


def test_the_prompt_can_have_another_form(path):
    assert TruthfulQA(path, template="{question} {x}").load()[0].prompt == "Question 0? {x}"
    with pytest.raises(InputError, match=r"data\.template"):
        TruthfulQA(path, template="Q:")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (None, None, "expected the column 'best_answer', got 'type'"),
        (3, " ", "line 2: expected a best answer, got an empty one"),
    ],
)
def test_bad_files_are_refused(tmp_path, column, value, message):
    header, first = list(HEADER), row(0)
    if column is None:
        header[3] = "Answer"
    else:
        first[column] = value
    with (tmp_path / "bad.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, first])
    with pytest.raises(InputError, match=message):
        TruthfulQA(tmp_path / "bad.csv").load()


def test_a_missing_file_is_refused():
    with pytest.raises(InputError, match="no such file"):
        TruthfulQA("nowhere/TruthfulQA.csv").load()


def test_the_real_file_gives_the_papers_split(shared):
    data = TruthfulQA(shared / "data" / "TruthfulQA.csv")
    data.tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "wiki-tiny")
    sizes = {name: len(data.split_ids(name)) for name in ("test", "validation", "calibration", "train")}
    assert sizes == {"test": 164, "validation": 66, "calibration": 118, "train": 469}
    assert all(len(question.incorrect) >= 1 for question in data.references())
