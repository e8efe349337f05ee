"""predictions.jsonl after an interruption: the same command goes on, and only with the same settings."""

import shutil
import signal
from dataclasses import replace

import pytest
import torch

from svd_lightning.callbacks import PredictionWriter
from svd_lightning.cli import main
from svd_lightning.decoding.generation import prediction_records
from svd_lightning.errors import InputError
from svd_lightning.steering import Corrected, LabelBias, Steering
from tests.callbacks.predicting import predict
from tests.chain import diary_data, diary_model, read_jsonl, write_config, write_diaries
from tests.processes import interrupted_command


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
