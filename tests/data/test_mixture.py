"""Several datasets as one."""

import pytest
import yaml

from svd_lightning import SteeredLanguageModel
from svd_lightning.cli import main
from svd_lightning.data import BoolQ, JSONLChoices, JSONLData, Mixture, OpenBookQA
from svd_lightning.errors import InputError
from tests.chain import write_jsonl
from tests.data.commonsense import CASES


@pytest.fixture
def parts(tmp_path):
    """BoolQ with a test file of its own, OpenBookQA cut from one file."""

    def make(**options):
        def rows(name, count):
            return [{**CASES[name].rows[i % 2], "id": str(i)} for i in range(count)]

        train, test = write_jsonl(tmp_path / "b.jsonl", rows("BoolQ", 8)), tmp_path / "t.jsonl"
        write_jsonl(test, [{**row, "id": f"t{i}"} for i, row in enumerate(rows("BoolQ", 3))])
        books = write_jsonl(tmp_path / "o.jsonl", rows("OpenBookQA", 10))
        return {
            "boolq": BoolQ(train, test_path=test, validation=None, calibration=2),
            "books": OpenBookQA(books, test=4, validation=1, calibration=3, **options),
        }

    return make


@pytest.fixture
def mix(parts, word_tokenizer):
    def make(**options):
        data = Mixture(options.pop("parts", None) or parts(), **options)
        data.tokenizer = word_tokenizer
        return data

    return make


pytestmark = pytest.mark.filterwarnings("ignore:.*calibration examples have the same text")


def counts(data, split):
    tasks = [each.split("/")[0] for each in data.split_ids(split)]
    return {task: tasks.count(task) for task in dict.fromkeys(tasks)}


def test_each_task_is_split_by_itself(mix):
    data = mix()
    assert counts(data, "test") == {"boolq": 3, "books": 4}
    assert counts(data, "calibration") == {"boolq": 2, "books": 3}
    assert counts(data, "validation") == {"books": 1}
    assert dict(sorted(counts(data, "train").items())) == {"books": 2, "boolq": 6}
    assert counts(data, "predict") == counts(data, "test")
    assert data.split_ids("test")[:3] == ["boolq/t0", "boolq/t1", "boolq/t2"]


def test_every_example_and_question_names_its_task(mix):
    data = mix()
    for split in ("train", "calibration", "test"):
        questions = data.questions(split)
        assert [question.id for question in questions] == data.split_ids(split)
        assert all(question.id.startswith(f"{question.task}/") for question in questions)
        assert list(data.tasks(split).values()) == [question.task for question in questions]
    assert {question.task for question in data.questions("test")} == {"boolq", "books"}


def test_the_parts_split_as_they_do_alone(mix, parts, word_tokenizer):
    alone = parts()["books"]
    alone.tokenizer = word_tokenizer
    together = [each for each in mix().split_ids("test") if each.startswith("books/")]
    assert together == [f"books/{each}" for each in alone.split_ids("test")]


def test_training_examples_are_shuffled_by_the_seed(mix):
    first, again, other = (mix(seed=seed).split_ids("train") for seed in (1, 1, 2))
    assert first == again != other
    assert sorted(first) == sorted(other)


def test_one_size_for_all_tasks_replaces_their_own(mix):
    data = mix(calibration=1, validation=0.25)
    assert counts(data, "calibration") == {"boolq": 1, "books": 1}
    assert counts(data, "validation") == {"boolq": 2, "books": 2}
    assert counts(data, "test") == {"boolq": 3, "books": 4}


def test_weights_repeat_and_thin_out_the_training_examples_alone(mix):
    data = mix(weights={"boolq": 0.5, "books": 2.5})
    assert dict(sorted(counts(data, "train").items())) == {"books": 5, "boolq": 3}
    assert counts(data, "test") == {"boolq": 3, "books": 4}
    ids = [each for each in data.split_ids("train") if each.startswith("books/")]
    assert len(set(ids)) == 5
    assert len({each.partition("~")[0] for each in ids}) == 2
    held_out = {each for split in ("calibration", "validation", "test") for each in data.split_ids(split)}
    assert not {each.partition("~")[0] for each in data.split_ids("train")} & held_out


def test_limits_hold_for_a_part_and_for_the_whole(mix, parts):
    assert counts(mix(parts=parts(limit=1)), "test") == {"boolq": 3, "books": 1}
    assert len(mix(limit=2).split_ids("test")) == 2


def test_completions_without_choices_mix_in(mix, parts, tmp_path):
    rows = [{"prompt": f"a {i}", "completion": " b", "task": "letters"} for i in range(4)]
    plain = JSONLData(write_jsonl(tmp_path / "p.jsonl", rows), test=1, validation=None, calibration=1)
    data = mix(parts={**parts(), "plain": plain})
    assert counts(data, "test") == {"boolq": 3, "books": 4, "plain": 1}
    assert len(data.questions("test")) == 7
    assert data.tasks("test")[7] == "plain/letters"


def test_a_mixture_may_be_a_part(mix, parts):
    inner = Mixture(parts())
    data = mix(parts={"all": inner})
    assert data.split_ids("test")[0] == "all/boolq/t0"
    assert data.questions("test")[0].task == "all/boolq"


def test_what_makes_no_sense_is_refused(parts):
    with pytest.raises(InputError, match=r"data\.parts: expected at least one"):
        Mixture({})
    with pytest.raises(InputError, match=r"data\.weights: expected names of boolq, books, got 'bool'"):
        Mixture(parts(), weights={"bool": 1.0})
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=r"data\.weights: expected positive"):
            Mixture(parts(), weights={"boolq": weight})


def test_what_a_part_refuses_names_file_and_line(mix, tmp_path):
    bad = JSONLChoices(write_jsonl(tmp_path / "x.jsonl", [{"prompt": "a", "choices": [" b"], "correct": [1]}]))
    with pytest.raises(InputError, match=r"x\.jsonl, line 1: .*right choices among 0 to 0"):
        mix(parts={"x": bad}).setup()


def test_the_whole_chain_runs_on_a_mixture_of_yaml_files(diaries, config, tmp_path):
    row = {"prompt": "winter on the coast , by a monk :", "choices": [" cold dawn .", " snow ."]}
    path = write_jsonl(tmp_path / "q.jsonl", [{**row, "correct": i % 2} for i in range(8)])
    questions = {"path": str(path), "test": 2, "validation": 1, "calibration": 2}
    plain = {"path": str(diaries / "train.jsonl"), "test": 2, "validation": 2, "calibration": 4}
    parts = {
        "choices": {"class_path": "svd_lightning.data.JSONLChoices", "init_args": questions},
        "diaries": {"class_path": "JSONLData", "init_args": plain},
    }
    for name, part in parts.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(part))
    mixed = {
        "class_path": "Mixture",
        "init_args": {"max_length": 64, "parts": {name: f"{name}.yaml" for name in parts}},
    }
    (tmp_path / "mixture.yaml").write_text(yaml.safe_dump(mixed))
    given = yaml.safe_load(config.read_text())
    del given["data"]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(given))
    quick = ["--calibration.alphas", "[]", "--calibration.show_table", "false", "--calibration.guard", "false"]
    command = ["fit", "--config", str(tmp_path / "run.yaml"), "--data", str(tmp_path / "mixture.yaml"), *quick]
    logger = ["--trainer.logger.init_args.save_dir", str(tmp_path / "runs")]
    main([*command, *logger, "--trainer.max_steps", "2"])
    (checkpoint,) = (tmp_path / "runs").rglob("last.ckpt")
    module = SteeredLanguageModel.load_from_checkpoint(checkpoint)
    assert module.steering.calibrated
