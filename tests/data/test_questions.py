"""All choices of a question as rows of a batch."""

from dataclasses import dataclass, replace

import pytest
import torch
from tokenizers import normalizers

from svd_lightning.data import ChoiceQuestion, CompletionDataModule, Example, ScoringCollator
from svd_lightning.data.questions import QuestionCollator
from svd_lightning.data.sampler import EvenShare
from svd_lightning.errors import InputError

TWO = ChoiceQuestion("two", "a b", (" c", " d e", " f"), correct=(1, 2), best=1, task="letters")
ONE = ChoiceQuestion("one", "h", (" g", " c c c"), correct=(0,), best=0)
LONG = ChoiceQuestion("long", "a", (" b", " c" * 20), correct=(0,), best=0)
PLAIN = Example("plain", "a a", " b")


@dataclass(kw_only=True, eq=False, repr=False)
class Given(CompletionDataModule):
    """The examples as they are given, all of them in the test split."""

    rows: tuple[Example, ...] = ()

    def load(self):
        return [Example("x", "a", " a"), Example("y", "a", " b")]

    def load_given_splits(self):
        return {"test": list(self.rows)}


@pytest.fixture
def given(word_tokenizer):
    def make(*examples, **options):
        data = Given(rows=examples, **{"calibration": None, "validation": None, "max_length": 12, **options})
        data.tokenizer = word_tokenizer
        return data

    return make


def texts(batch, tokenizer):
    """What each row holds, prompt and choice."""
    return [
        (
            tokenizer.decode(ids[(labels == -100) & mask.bool()], skip_special_tokens=True),
            tokenizer.decode(ids[labels != -100]),
        )
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True)
    ]


def test_every_choice_is_a_row(given, word_tokenizer):
    [batch] = given(TWO.as_example(), PLAIN, ONE.as_example()).test_dataloader()
    assert texts(batch, word_tokenizer) == [
        ("a b", "c </s>"),
        ("a b", "d e </s>"),
        ("a b", "f </s>"),
        ("a a", "b </s>"),
        ("h", "g </s>"),
        ("h", "c c c </s>"),
    ]
    assert batch["index"].tolist() == [0, 0, 0, 1, 2, 2]
    assert batch["option"].tolist() == [0, 1, 2, 0, 0, 1]
    assert batch["correct"].tolist() == [False, True, True, True, True, False]
    assert batch["best"].tolist() == [False, True, False, True, True, False]
    assert batch["asked"].tolist() == [True, True, True, False, True, True]
    assert batch["task"] == ["letters", "letters", "letters", None, None, None]
    assert batch["question"].tolist() == [0, 0, 0, 1, 2, 2]
    ends = torch.tensor([row.tolist().index(2) for row in batch["input_ids"]])  # </s>
    assert torch.equal(batch["end"], ends)


def test_the_best_row_is_the_example_that_is_trained_on(given):
    data = given(TWO.as_example(), ONE.as_example())
    rows = data._split("test")
    plain = ScoringCollator(pad_token_id=0)(rows)
    [batch] = data.test_dataloader()
    for name in ("index", "input_ids", "labels"):
        width = None if name == "index" else plain[name].shape[1]
        assert torch.equal(batch[name][batch["best"]][..., :width], plain[name]), name


def test_one_question_at_a_time(given):
    batches = list(given(TWO.as_example(), ONE.as_example(), eval_batch_size=1).test_dataloader())
    assert [batch["question"].tolist() for batch in batches] == [[0, 0, 0], [0, 0]]


def test_several_answers_of_one_question_bring_it_once(given):
    answers = [replace(each, id=f"two-{i}", group="two") for i, each in enumerate(TWO.as_examples())]
    [batch] = given(PLAIN, *answers[1:]).test_dataloader()
    assert batch["index"].tolist() == [0, 1, 1, 1]


def test_without_questions_nothing_changes(given):
    [batch] = given(PLAIN).test_dataloader()
    assert "option" not in batch


def test_shares_are_filled_with_a_row_that_scores_nothing(given):
    questions = given(TWO.as_example(), PLAIN, ONE.as_example()).all_choices("test")
    share = EvenShare(questions, num_replicas=2, rank=1)
    batch = QuestionCollator(rows=ScoringCollator(pad_token_id=0))([share[1]])
    assert batch["index"].tolist() == [-1]
    assert (batch["labels"] == -100).all()
    assert not batch["asked"].any()
    assert batch["input_ids"].shape[1] > 1


def test_a_longer_choice_is_refused_before_anything_is_loaded(given):
    data = given(ONE.as_example(), LONG.as_example())
    with pytest.raises(
        InputError, match=r"at most 12 tokens in a prompt with a choice, but 1 of 2 .* long \(23 tok"
    ):
        data.setup("test")
    data.setup("fit")


def test_or_left_out_with_a_warning(given):
    data = given(ONE.as_example(), LONG.as_example(), skip_overlong=True)
    with pytest.warns(UserWarning, match="dropped, since 1 of 2 questions"):
        [batch] = data.test_dataloader()
    assert batch["index"].tolist() == [0, 0]


def test_a_choice_that_the_tokenizer_drops_is_refused(given, word_tokenizer):
    word_tokenizer.backend_tokenizer.normalizer = normalizers.Replace("~", "")
    question = ChoiceQuestion("odd", "a", (" b", " ~"), correct=(0,), best=0)
    with pytest.raises(
        InputError, match="question 'odd': expected choices of at least one token, got none for ' ~'"
    ):
        given(question.as_example()).setup("test")
