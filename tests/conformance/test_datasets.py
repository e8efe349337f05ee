"""What every dataset must hold. Datasets are found by inspection: a new file is tested without a list."""

import importlib
import inspect
import pkgutil
import re
from dataclasses import fields

import pytest
from jsonargparse import ArgumentParser, set_parsing_settings

import svd_lightning.data as package
from svd_lightning.data import CompletionDataModule, RecordedChoices
from svd_lightning.errors import InputError
from tests.chain import write_jsonl
from tests.data.commonsense import CASES


def discover():
    """Every data module that a module of svd_lightning.data defines and that can be made."""
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        module = importlib.import_module(info.name)
        for _, member in inspect.getmembers(module, inspect.isclass):
            ours = member.__module__ == module.__name__ and issubclass(member, CompletionDataModule)
            if ours and not inspect.isabstract(member):
                yield member


pytestmark = pytest.mark.filterwarnings("ignore:.*calibration examples have the same text")
DATASETS = sorted(discover(), key=lambda cls: cls.__name__)
RECORDED = [cls for cls in DATASETS if issubclass(cls, RecordedChoices)]
EVERY_DATASET = pytest.mark.parametrize("dataset", DATASETS, ids=lambda cls: cls.__name__)
EVERY_RECORDED = pytest.mark.parametrize("dataset", RECORDED, ids=lambda cls: cls.__name__)


def rows_of(dataset, count):
    """Rows in the dataset's columns, over and over, under ids of their own."""
    rows = CASES[dataset.__name__].rows
    return [{**rows[i % len(rows)], "id": f"row-{i}"} for i in range(count)]


@pytest.fixture
def set_up(tmp_path, word_tokenizer):
    def make(dataset, count=10, **options):
        path = write_jsonl(tmp_path / "train.jsonl", rows_of(dataset, count))
        data = dataset(str(path), **{"test": 3, "validation": 1, "calibration": 2, **options})
        data.tokenizer = word_tokenizer
        return data

    return make


def test_the_package_has_datasets_and_exports_them():
    names = {cls.__name__ for cls in DATASETS}
    assert {"JSONLData", "TruthfulQA", "Mixture", "JSONLChoices", *CASES} <= names <= set(package.__all__)


@EVERY_DATASET
def test_every_option_explains_itself_in_help(dataset):
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser()
    parser.add_class_arguments(dataset, "data")
    shown = parser.format_help()
    assert inspect.getdoc(dataset)
    for option in fields(dataset):
        found = re.search(rf"--data\.{option.name}\+? (\{{[\w,]+\}}|[A-Z_]+)\s+(\S+)", shown)
        assert found, option.name
        assert not found[2].startswith("("), f"{option.name} has no docstring"


@EVERY_RECORDED
def test_every_row_is_a_question_with_its_right_answer(dataset, tmp_path):
    case = CASES[dataset.__name__]
    questions = dataset(write_jsonl(tmp_path / "x.jsonl", case.rows)).load_questions()
    assert [question.best for question in questions] == case.right
    assert all(question.best in question.correct for question in questions)
    assert questions[0].prompt.startswith(case.prompt)
    assert len(questions[0].choices) == len(case.labels)
    assert all(choice.endswith(label) for choice, label in zip(questions[0].choices, case.labels, strict=True))


@EVERY_RECORDED
def test_splits_are_disjoint_and_carry_their_questions(dataset, set_up):
    data = set_up(dataset)
    sizes = {"train": 4, "calibration": 2, "validation": 1, "test": 3}
    ids = {split: data.split_ids(split) for split in sizes}
    assert {split: len(each) for split, each in ids.items()} == sizes
    assert len({each for split in ids.values() for each in split}) == 10
    for split in ids:
        assert [question.id for question in data.questions(split)] == ids[split]
    assert data.questions("predict") == data.questions("test")
    rows = next(iter(data.test_dataloader()))["id"]
    assert list(dict.fromkeys(rows)) == ids["test"]
    assert len(rows) == sum(len(question.choices) for question in data.questions("test"))


@EVERY_RECORDED
def test_the_same_seed_gives_the_same_data(dataset, set_up):
    assert set_up(dataset).digest("train") == set_up(dataset).digest("train")
    assert set_up(dataset, seed=5).split_ids("test") != set_up(dataset).split_ids("test")


@EVERY_RECORDED
def test_splits_can_have_files_of_their_own(dataset, set_up, tmp_path):
    rows = [{**row, "id": f"t{i}"} for i, row in enumerate(rows_of(dataset, 4))]
    test = write_jsonl(tmp_path / "test.jsonl", rows)
    data = set_up(dataset, test_path=str(test))
    assert data.split_ids("test") == ["t0", "t1", "t2", "t3"]
    assert len(data.split_ids("train")) == 7


@EVERY_RECORDED
def test_rows_without_ids_are_called_after_file_and_line(dataset, tmp_path):
    rows = [{key: value for key, value in row.items() if key != "id"} for row in CASES[dataset.__name__].rows]
    questions = dataset(write_jsonl(tmp_path / "mine.jsonl", rows)).load_questions()
    assert [question.id for question in questions] == ["mine-1", "mine-2"]


@EVERY_RECORDED
def test_a_bad_row_is_one_line_with_file_and_line(dataset, tmp_path):
    case = CASES[dataset.__name__]
    without = {key: value for key, value in case.rows[1].items() if key != next(iter(case.bad))}
    for bad in [without, *({**case.rows[1], column: value} for column, value in case.bad.items())]:
        data = dataset(write_jsonl(tmp_path / "bad.jsonl", [case.rows[0], bad]))
        with pytest.raises(InputError, match=r"bad\.jsonl, line 2: ") as caught:
            data.load_questions()
        assert "\n" not in str(caught.value)
