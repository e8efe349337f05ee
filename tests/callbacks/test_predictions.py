"""predictions.jsonl: complete, in order, once, whatever happens on the way."""

import json
import shutil
import signal
from dataclasses import replace

import pytest
import torch

from svd_lightning.callbacks import PredictionWriter
from svd_lightning.cli import main
from svd_lightning.data import JSONLData, TruthfulQA
from svd_lightning.decoding.generation import prediction_records
from svd_lightning.errors import InputError
from svd_lightning.steering import Corrected, LabelBias, Steering
from tests.chain import diary_data, diary_model, quiet_trainer, read_jsonl, write_config, write_diaries
from tests.processes import interrupted_command


def predict(folder, fitted, data, writer, module=None, **options):
    module = module or diary_model()
    quiet_trainer(folder, writer, **options).predict(
        module, datamodule=data, ckpt_path=fitted / "checkpoints/last.ckpt", return_predictions=False
    )


def test_complete_and_in_order_and_where_it_is_said(fitted, diaries, tmp_path):
    target = tmp_path / "new" / "out.jsonl"
    predict(tmp_path, fitted, diary_data(diaries, eval_batch_size=4), PredictionWriter(output=str(target)))
    rows, prompts = read_jsonl(target), read_jsonl(diaries / "predict.jsonl")
    assert [row["id"] for row in rows] == [row["id"] for row in prompts]
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in prompts]
    assert [row["reference"] for row in rows] == [row["completion"] for row in prompts]
    assert {frozenset(row) for row in rows} == {frozenset(["id", "prompt", "reference", "completion"])}
    assert all(row["completion"] for row in rows)
    assert [path.name for path in target.parent.iterdir()] == ["out.jsonl"], "no parts are left"


def test_compare_adds_base_and_tuned(fitted, diaries, tmp_path):
    predict(tmp_path, fitted, diary_data(diaries), PredictionWriter(compare=True))
    rows = read_jsonl(tmp_path / "run/version_0/predictions.jsonl")
    assert all(set(row) == {"id", "prompt", "reference", "completion", "base", "tuned"} for row in rows)
    found = []
    for steering in (Steering(strengths=[0.0], penalty=0.0), Steering(strengths=[0.0])):
        target = tmp_path / f"{steering.penalty}.jsonl"
        predict(
            tmp_path,
            fitted,
            diary_data(diaries),
            PredictionWriter(output=str(target)),
            diary_model(steering=steering),
        )
        found.append([row["completion"] for row in read_jsonl(target)])
    assert found[0] == found[1] == [row["tuned"] for row in rows], "greedy: the mask changes no choice"


def test_an_existing_file_is_never_overwritten(fitted, diaries, tmp_path):
    target = tmp_path / "out.jsonl"
    target.write_text("mine\n")
    with pytest.raises(InputError, match=r"predict\.output: expected a new file, got .* which exists"):
        predict(tmp_path, fitted, diary_data(diaries), PredictionWriter(output=str(target)))
    assert target.read_text() == "mine\n"


class StopAfter(PredictionWriter):
    """Breaks off after a number of batches, as a lost process would."""

    batches = 2

    def write_on_batch_end(self, *arguments):
        super().write_on_batch_end(*arguments)
        self.batches -= 1
        if not self.batches:
            raise ConnectionError("lost")


@pytest.fixture(scope="module")
def broken(fitted, diaries, tmp_path_factory):
    """The part file of a run that broke off after two of three batches."""
    folder = tmp_path_factory.mktemp("broken")
    target = folder / "out.jsonl"
    with pytest.raises(ConnectionError):
        predict(folder, fitted, diary_data(diaries, eval_batch_size=2), StopAfter(output=str(target)))
    assert not target.exists()
    return folder / "out.jsonl.part0"


@pytest.fixture
def interrupted(broken, tmp_path):
    """The target of that run, and a part file of one's own."""
    return tmp_path / "out.jsonl", shutil.copy(broken, tmp_path / "out.jsonl.part0")


@pytest.fixture(scope="module")
def whole(fitted, diaries, tmp_path_factory):
    """What a run writes that nothing breaks off."""
    folder = tmp_path_factory.mktemp("whole")
    target = folder / "out.jsonl"
    predict(folder, fitted, diary_data(diaries, eval_batch_size=2), PredictionWriter(output=str(target)))
    return target.read_bytes()


class Decoded(PredictionWriter):
    """Counts the rows that were decoded anew."""

    rows = 0

    def write_on_batch_end(self, trainer, pl_module, prediction, *rest):
        self.rows += len(prediction)
        super().write_on_batch_end(trainer, pl_module, prediction, *rest)


@pytest.mark.parametrize(
    ("keep", "more", "missing"),
    [(None, b"", 2), (-7, b"", 3), (-1, b"", 2), (None, '{"index": 4, "text": "☃'.encode()[:-1], 2)],
    ids=["whole", "half-a-line", "no-newline", "half-a-letter"],
)
def test_the_same_command_goes_on_where_it_broke_off(
    keep, more, missing, interrupted, whole, fitted, diaries, tmp_path
):
    target, part = interrupted
    part.write_bytes(part.read_bytes()[:keep] + more)
    writer = Decoded(output=str(target))
    predict(tmp_path, fitted, diary_data(diaries, eval_batch_size=2), writer)
    assert writer.rows == missing
    assert target.read_bytes() == whole
    assert not part.exists()


def test_a_part_without_its_first_line_is_begun_anew(fitted, diaries, tmp_path):
    target = tmp_path / "out.jsonl"
    (tmp_path / "out.jsonl.part0").touch()
    (tmp_path / "out.jsonl.part1").write_text("3fc9")
    predict(tmp_path, fitted, diary_data(diaries), PredictionWriter(output=str(target)))
    assert len(read_jsonl(target)) == 6


@pytest.mark.parametrize(
    ("options", "data", "differs"),
    [
        ({"generation": {"max_new_tokens": 3}}, {}, "decoding options"),
        ({"steering": Steering(strengths=[9.0])}, {}, "steering"),
        ({"steering": Steering(strengths=[9.0], alpha=None)}, {}, "steering"),
        ({}, {"predict_path": "test.jsonl"}, "prompts"),
        ({"backbone": replace(diary_model().backbone, dtype="bfloat16")}, {}, "number formats"),
    ],
    ids=["generation", "strength", "mask", "data", "format"],
)
def test_the_parts_of_other_settings_are_refused(options, data, differs, interrupted, fitted, diaries, tmp_path):
    target, part = interrupted
    before = part.read_bytes()
    data = {name: str(diaries / value) for name, value in data.items()}
    with pytest.raises(InputError, match=f"left by an interrupted run that differs in {differs}; go on"):
        predict(
            tmp_path,
            fitted,
            diary_data(diaries, **data),
            PredictionWriter(output=str(target)),
            diary_model(**options),
        )
    assert part.read_bytes() == before


class Biased(StopAfter):
    """Decodes with a label bias of this size."""

    def __init__(self, bias, **options):
        super().__init__(**options)
        self.bias = torch.tensor([bias])

    def on_predict_start(self, trainer, pl_module):
        pl_module.steering = Corrected.of(pl_module.configured, LabelBias(torch.tensor([5]), self.bias))
        super().on_predict_start(trainer, pl_module)


def test_the_parts_of_another_correction_are_refused(fitted, diaries, tmp_path):
    """Such runs agree in rules, strengths (0), mask and penalty."""
    target = str(tmp_path / "out.jsonl")
    with pytest.raises(ConnectionError):
        predict(tmp_path, fitted, diary_data(diaries, eval_batch_size=1), Biased(1.0, output=target))
    with pytest.raises(InputError, match="left by an interrupted run that differs in steering;"):
        predict(tmp_path, fitted, diary_data(diaries), Biased(2.0, output=target))


class Echo:
    """An engine that answers with its own options."""

    def __init__(self, **options):
        self.options = options

    def complete(self, batch, steerings):
        return prediction_records(batch, {"completion": [[str(self.options)] for _ in batch["id"]]})


def test_the_options_of_an_engine_count(fitted, diaries, tmp_path):
    writer, module = StopAfter(output=str(tmp_path / "out.jsonl")), diary_model()
    module.engine = Echo(tensor_parallel_size=1, dtype="float32")
    with pytest.raises(ConnectionError):
        predict(tmp_path, fitted, diary_data(diaries, eval_batch_size=2), writer, module)
    module.engine = Echo(tensor_parallel_size=1, dtype="bfloat16")
    with pytest.raises(InputError, match="differs in engine options; go on"):
        predict(tmp_path, fitted, diary_data(diaries), PredictionWriter(output=writer.output), module)
    module.engine = Echo(dtype="float32", tensor_parallel_size=1)
    predict(tmp_path, fitted, diary_data(diaries), PredictionWriter(output=writer.output), module)


@pytest.mark.parametrize("sampled", [True, False])
def test_a_seed_counts_where_samples_are_drawn(sampled, fitted, diaries, tmp_path, monkeypatch):
    writer = StopAfter(output=str(tmp_path / "out.jsonl"))
    data = diary_data(diaries, eval_batch_size=2)
    module = diary_model(generation={"do_sample": sampled, "max_new_tokens": 2})
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    with pytest.raises(ConnectionError):
        predict(tmp_path, fitted, data, writer, module)
    monkeypatch.setenv("PL_GLOBAL_SEED", "2")
    again = PredictionWriter(output=writer.output)
    if sampled:
        with pytest.raises(InputError, match="differs in seed; go on with the same"):
            predict(tmp_path, fitted, data, again, module)
    else:
        predict(tmp_path, fitted, data, again, module)
        assert len(read_jsonl(tmp_path / "out.jsonl")) == 6


def test_the_parts_of_an_older_version_are_refused(interrupted, fitted, diaries, tmp_path):
    target, part = interrupted
    part.write_text("5f" * 32 + "\n" + part.read_text().partition("\n")[2])
    with pytest.raises(InputError, match=r"differs in what this version cannot tell; .* delete the parts"):
        predict(tmp_path, fitted, diary_data(diaries), PredictionWriter(output=str(target)))


def test_text_of_every_kind_stays_one_line_each(fitted, diaries, tmp_path):
    prompts = [{"prompt": "winter\non the\u2028coast \u0085 snow \x1e ☃", "id": "a/ä"}]
    path = tmp_path / "odd.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in prompts))
    target = tmp_path / "out.jsonl"
    predict(tmp_path, fitted, diary_data(diaries, predict_path=str(path)), PredictionWriter(output=str(target)))
    [row] = [json.loads(line) for line in target.read_text(encoding="utf-8").split("\n") if line]
    assert (row["id"], row["prompt"]) == ("a/ä", prompts[0]["prompt"])


def test_several_sequences_are_a_list(fitted, diaries, tmp_path):
    module = diary_model(generation={"num_beams": 2, "num_return_sequences": 2, "max_new_tokens": 4})
    target = tmp_path / "out.jsonl"
    predict(tmp_path, fitted, diary_data(diaries), PredictionWriter(output=str(target)), module)
    assert all(len(row["completion"]) == 2 for row in read_jsonl(target))


@pytest.mark.parametrize("sign", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGKILL])
def test_a_stopped_process_is_resumed_by_the_same_command(sign, fitted, tmp_path):
    folder = write_diaries(tmp_path / "data", predict=24)
    config = write_config(tmp_path / "config.yaml", folder, tmp_path, data={"eval_batch_size": 1})
    arguments = [
        *["predict", "--config", str(config)],
        *["--ckpt_path", str(shutil.copy(fitted / "checkpoints/last.ckpt", tmp_path))],
    ]

    def written(path):
        while True:
            yield path.exists() and path.read_bytes().count(b"\n") > 5

    target = tmp_path / "out.jsonl"
    rc = interrupted_command(
        written(tmp_path / "out.jsonl.part0"),
        sign,
        *arguments,
        "--predict.output",
        str(target),
        log=tmp_path / "log",
    )
    assert rc == (130 if sign == signal.SIGINT else -sign)
    assert not target.exists()
    assert 5 < (tmp_path / "out.jsonl.part0").read_bytes().count(b"\n") < 24
    main([*arguments, "--predict.output", str(target)])
    main([*arguments, "--predict.output", str(tmp_path / "whole.jsonl")])
    assert target.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert len(read_jsonl(target)) == 24


def test_what_the_data_know_of_a_question_goes_with_it(fitted, tmp_path):
    columns = "Category,Question,Best Answer,Correct Answers,Incorrect Answers"
    rows = [f"Places,Where is {n}?,In {n},In {n}; There,Nowhere; On {n}" for n in range(12)]
    (tmp_path / "questions.csv").write_text("\n".join([columns, *rows]))
    data = TruthfulQA(
        str(tmp_path / "questions.csv"), template="Reply briefly. {question}\n", max_length=64, test=3
    )
    predict(tmp_path, fitted, data, PredictionWriter(output=str(tmp_path / "out.jsonl")))
    found = read_jsonl(tmp_path / "out.jsonl")
    assert len(found) == 3
    for row in found:
        number = row["id"]
        assert {name: row[name] for name in ("prompt", "reference", "question", "correct", "incorrect")} == {
            "prompt": f"Reply briefly. Where is {number}?\n",
            "reference": f" In {number}",
            "question": f"Where is {number}?",
            "correct": [f"In {number}", "There"],
            "incorrect": ["Nowhere", f"On {number}"],
        }


def test_the_task_goes_with_it(fitted, diaries, tmp_path):
    class TwoTasks(JSONLData):
        def load_given_splits(self):
            splits = super().load_given_splits()
            named = [replace(example, task=f"t{n % 2}") for n, example in enumerate(splits["predict"])]
            return {**splits, "predict": named}

    data = TwoTasks(str(diaries / "train.jsonl"), predict_path=str(diaries / "predict.jsonl"), max_length=64)
    predict(tmp_path, fitted, data, PredictionWriter(output=str(tmp_path / "out.jsonl")))
    assert [row["task"] for row in read_jsonl(tmp_path / "out.jsonl")] == ["t0", "t1"] * 3
