"""Questions with choices through the splits of every dataset."""

from dataclasses import dataclass

import pytest

from svd_lightning.data import ChoiceDataModule, ChoiceQuestion, JSONLData


def question(number: int, prompt: str = "") -> ChoiceQuestion:
    return ChoiceQuestion(str(number), prompt or f"a {number}", (" b", " c", " d"), correct=(1, 2), best=2)


@dataclass(kw_only=True, eq=False, repr=False)
class Letters(ChoiceDataModule):
    given: bool = False

    def load_questions(self):
        return [question(number) for number in range(12)]

    def load_given_question_splits(self):
        return {"test": [question(number) for number in (21, 20)]} if self.given else {}


@pytest.fixture
def letters(word_tokenizer):
    def make(**options):
        data = Letters(**{"test": 3, "validation": 2, "calibration": 4, **options})
        data.tokenizer = word_tokenizer
        return data

    return make


def test_each_split_has_its_questions_in_its_order(letters):
    data = letters()
    for split, size in {"train": 3, "calibration": 4, "validation": 2, "test": 3, "predict": 3}.items():
        assert [each.id for each in data.questions(split)] == data.split_ids(split)
        assert len(data.questions(split)) == size


def test_given_splits_are_taken_as_they_are(letters):
    data = letters(given=True)
    assert data.questions("test") == data.questions("predict") == [question(21), question(20)]
    assert len(data.questions("train")) == 6


def test_the_best_choice_is_trained_on(letters, word_tokenizer):
    batch = next(iter(letters().train_dataloader()))
    (labels,) = {tuple(row[row != -100].tolist()) for row in batch["labels"]}
    assert word_tokenizer.decode(labels, skip_special_tokens=True) == "d"


def test_questions_dropped_from_the_rows_are_dropped_here_too(letters, monkeypatch):
    monkeypatch.setattr(Letters, "load_questions", lambda self: [question(1), question(2, "a " * 9), question(3)])
    data = letters(test=None, validation=None, calibration=None, max_length=5, skip_overlong=True)
    with pytest.warns(UserWarning, match="dropped"):
        assert data.questions("train") == [question(1), question(3)]


def test_data_without_choices_have_no_questions(tmp_path, word_tokenizer):
    (tmp_path / "t.csv").write_text("prompt,completion\na,b\nc,d\n")
    data = JSONLData(tmp_path / "t.csv", test=1, validation=None, calibration=None)
    data.tokenizer = word_tokenizer
    assert data.questions("test") == data.questions("train") == []
