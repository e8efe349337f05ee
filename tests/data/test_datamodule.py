import warnings

import pytest
import torch
from jsonargparse import ArgumentParser

from svd_lightning.data import CompletionDataModule, Example
from svd_lightning.errors import InputError
from tests.data.letters import Letters
from tests.processes import run_module

SPLITS = ("train", "calibration", "validation", "test", "predict")


class Alternating(CompletionDataModule):
    """Every third example is of no task, the others of two."""

    def load(self):
        return [Example(str(i), "a " * (i + 1), " b", task=("x", "y", None)[i % 3]) for i in range(12)]


@pytest.fixture
def letters(word_tokenizer):
    def build(**options):
        data = Letters(**{"batch_size": 4, "max_length": 16, **options})
        data.tokenizer = word_tokenizer
        return data

    return build


def test_splits_are_disjoint_and_complete(letters):
    data = letters(test=4, validation=0.25, calibration=0.25)
    ids = {name: data.split_ids(name) for name in SPLITS}
    assert {name: len(each) for name, each in ids.items()} == {
        "train": 9,
        "calibration": 3,
        "validation": 4,
        "test": 4,
        "predict": 4,
    }
    assert sorted(ids["train"] + ids["calibration"] + ids["validation"] + ids["test"], key=int) == [
        str(i) for i in range(20)
    ]
    assert ids["predict"] == ids["test"]


def test_index_is_the_rows_number_within_its_split(letters):
    data = letters()
    (batch,) = data.calibration_dataloader()
    assert [data.rows("calibration")[i].id for i in batch["index"]] == batch["id"] == data.split_ids("calibration")


def test_loaders_hold_every_example_once(letters):
    data = letters(eval_batch_size=3)
    for split, loader in {
        "train": data.train_dataloader(),
        "validation": data.val_dataloader(),
        "test": data.test_dataloader(),
        "predict": data.predict_dataloader(),
        "calibration": data.calibration_dataloader(),
    }.items():
        batches = list(loader)
        ids = [name for batch in batches for name in batch["id"]]
        assert sorted(ids) == sorted(data.split_ids(split))
        assert split == "train" or ids == data.split_ids(split)
        assert len(batches[0]["id"]) <= (4 if split == "train" else 3)


def test_everything_is_built_once_for_all_stages(letters):
    data = letters()
    for stage in ("fit", "validate", "test", "predict", None):
        data.setup(stage)
    assert data.loads == 1


def test_another_tokenizer_builds_it_anew(letters, word_tokenizer):
    data = letters()
    before = data.digest("train")
    word_tokenizer.add_tokens(["zz"])
    data.tokenizer = type(word_tokenizer)(
        tokenizer_object=word_tokenizer.backend_tokenizer, eos_token="<unk>", bos_token="<s>"
    )
    data.setup("fit")
    assert data.loads == 2
    assert data.digest("train") != before


def test_the_digest_follows_what_the_model_reads(letters):
    digest = letters().digest("calibration")
    assert digest == letters(batch_size=2).digest("calibration")
    assert len({digest, letters(seed=1).digest("calibration"), letters().digest("train")}) == 3
    assert len(digest) == 64


@pytest.mark.parametrize(("pad_token", "filled_with"), [("h", 11), (None, 2)])
def test_padding_falls_back_to_eos(letters, word_tokenizer, pad_token, filled_with):
    word_tokenizer.pad_token = pad_token
    data = letters(test=8)
    for loader in (data.train_dataloader(), data.predict_dataloader()):
        padding = [batch["input_ids"][batch["attention_mask"] == 0] for batch in loader]
        assert set(torch.cat(padding).tolist()) == {filled_with}


def test_lengths_can_be_rounded_up(letters):
    assert next(iter(letters(pad_to_multiple_of=8).train_dataloader()))["input_ids"].shape[1] % 8 == 0


def test_cut_completions_are_counted_in_one_warning(letters):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        letters(max_length=7, test=None, validation=None, calibration=None).setup("fit")
    messages = [str(each.message) for each in caught if "completions cut" in str(each.message)]
    assert len(messages) == 1
    assert "of 20 in train" in messages[0]


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_prompt_beyond_max_length_is_refused_before_anything_runs(letters, split):
    data = letters(max_length=5)
    with pytest.raises(InputError, match=r"data\.max_length: expected every prompt to be shorter than 5 tokens"):
        data.setup(split)


def test_overlong_prompts_can_be_skipped(letters):
    data = letters(max_length=5, skip_overlong=True)
    with pytest.warns(UserWarning, match="dropped, since"):
        data.setup()
    assert sum(len(data.split_ids(name)) for name in SPLITS[:-1]) == 12


def test_max_length_beyond_the_context_is_refused(letters):
    data = letters(max_length=64)
    data.context_length = 32
    with pytest.raises(InputError, match="at most the model's context of 32 tokens, got 64"):
        data.setup("fit")


def test_limit_is_for_each_split(letters):
    data = letters(limit=2)
    assert [len(data.split_ids(name)) for name in SPLITS] == [2, 2, 2, 2, 2]


@pytest.mark.parametrize("size", [None, 0, 0.0])
def test_without_calibration_there_is_no_loader_for_it(letters, size):
    data = letters(calibration=size)
    assert data.rows("calibration") == data.split_ids("calibration") == []
    with pytest.raises(InputError, match=r"data\.calibration: there is no calibration split; set a size"):
        data.calibration_dataloader()


def test_without_a_validation_split_there_is_nothing_to_load(letters):
    assert letters(validation=None).val_dataloader() == []


@pytest.mark.parametrize(("loader", "name"), [("test_dataloader", "test"), ("predict_dataloader", "predict")])
def test_missing_splits_are_named(letters, loader, name):
    data = letters(test=None)
    with pytest.raises(InputError, match=rf"data\.{name}: there is no {name} split"):
        getattr(data, loader)()


@pytest.mark.parametrize("option", ["batch_size", "eval_batch_size", "max_length", "limit", "pad_to_multiple_of"])
def test_numbers_below_one_are_refused(option):
    with pytest.raises(InputError, match=rf"data\.{option}: expected at least 1, got 0"):
        Letters(**{option: 0})


def test_sizes_are_checked_at_once():
    with pytest.raises(InputError, match=r"data\.calibration"):
        Letters(calibration=2.5)


def test_without_a_tokenizer_it_says_where_to_get_one():
    with pytest.raises(InputError, match=r"AutoTokenizer\.from_pretrained"):
        Letters().setup("fit")


@pytest.mark.parametrize("length_grouped", [True, False])
def test_the_global_seed_decides_the_order_of_training_and_not_the_splits(letters, length_grouped, monkeypatch):
    def ids(seed):
        monkeypatch.setenv("PL_GLOBAL_SEED", str(seed))
        data = letters(length_grouped=length_grouped, calibration=None)
        return [name for batch in data.train_dataloader() for name in batch["id"]]

    assert ids(1) == ids(1) != ids(2)
    assert sorted(ids(1)) == sorted(ids(2))


class TwoRanks:
    """As much of a distributed Trainer as the data asks for."""

    lightning_module = None

    def __init__(self, rank):
        self.distributed_sampler_kwargs = {"num_replicas": 2, "rank": rank}


@pytest.mark.parametrize("length_grouped", [True, False])
def test_two_processes_share_the_data(letters, length_grouped):
    train, calibration = [], []
    for rank in (0, 1):
        data = letters(length_grouped=length_grouped, calibration=5)
        data.trainer = TwoRanks(rank)
        train.append([name for batch in data.train_dataloader() for name in batch["id"]])
        calibration.append([i for batch in data.calibration_dataloader() for i in batch["index"].tolist()])
    assert set(train[0]) | set(train[1]) == set(data.split_ids("train"))
    assert len(train[0]) == len(train[1])
    assert sorted(calibration[0] + calibration[1]) == [-1, 0, 1, 2, 3, 4]
    assert len(calibration[0]) == len(calibration[1])


def test_two_real_processes_train_calibrate_and_predict_on_every_example(tmp_path):
    run_module("tests.data.two_ranks", str(tmp_path), processes=2)
    first, second = ((tmp_path / f"rank{rank}.txt").read_text().splitlines() for rank in (0, 1))
    for ours, theirs in zip(first, second, strict=True):
        assert ours == theirs == "whole"


def test_worker_processes_collate_the_same_batches(letters):
    alone, helped = letters().val_dataloader(), letters(num_workers=1).val_dataloader()
    assert [batch["input_ids"].tolist() for batch in alone] == [batch["input_ids"].tolist() for batch in helped]


def test_options_parse_from_the_command_line():
    parser = ArgumentParser()
    parser.add_subclass_arguments(CompletionDataModule, "data")
    arguments = ["--data=JSONLData", "--data.path=x.jsonl", "--data.calibration=12", "--data.test=0.5"]
    config = parser.parse_args([*arguments, "--data.validation=null"]).data
    options = config.init_args
    assert config.class_path.endswith("JSONLData")
    assert (options.path, options.calibration, options.test, options.validation) == ("x.jsonl", 12, 0.5, None)


def test_tasks_by_the_number_of_the_row(word_tokenizer):
    data = Alternating(calibration=6, validation=None, test=None)
    data.tokenizer = word_tokenizer
    tasks, ids = data.tasks("calibration"), data.split_ids("calibration")
    assert tasks == {row: "xy"[int(i) % 3] for row, i in enumerate(ids) if int(i) % 3 < 2}
    assert data.tasks("validation") == {}
