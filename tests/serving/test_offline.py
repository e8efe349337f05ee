"""`predict --engine vllm`: the same file as without."""

import importlib.util
import json

import pytest
from transformers import GenerationConfig

from svd_lightning import SteeredLanguageModel
from svd_lightning.callbacks import PredictionWriter
from svd_lightning.data import Prompts
from svd_lightning.errors import InputError
from svd_lightning.models import Backbone
from svd_lightning.serving.offline import AT_ONCE, OfflineEngine, at_once, check_engine, check_options
from svd_lightning.steering import Steering
from tests import chain
from tests.serving import tiny

ENGINE = {"max_model_len": 96, "enforce_eager": True, "distributed_executor_backend": "uni"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base, an adapter, and a file of prompts."""
    folder = tmp_path_factory.mktemp("offline")
    base = tiny.make_base("Llama", folder / "base")
    tiny.with_adapter(base, "LoRA").save_pretrained(folder / "adapter")
    rows = [{"id": f"r{n}", "prompt": " ".join(f"w{i}" for i in ids)} for n, ids in enumerate(tiny.prompts(10))]
    chain.write_jsonl(folder / "prompts.jsonl", rows)
    return folder


def predict(made, output, *, writer=None, compare=False, generation=None, **options):
    module = SteeredLanguageModel(
        Backbone(str(made / "base")),
        str(made / "adapter"),
        steering=Steering(strengths=(8.0,)),
        generation={"max_new_tokens": 12, **(generation or {})},
    )
    writer = writer or PredictionWriter(output=str(output), compare=compare)
    data = Prompts(str(made / "prompts.jsonl"), eval_batch_size=1)
    trainer = chain.quiet_trainer(output.parent, writer)
    trainer.predict(module, datamodule=data, return_predictions=False, **options)
    return module


def test_where_vllm_is_not_installed_one_line_says_so(made, tmp_path, monkeypatch):
    monkeypatch.setattr("svd_lightning.serving.offline.find_spec", lambda name: None)
    with pytest.raises(InputError, match="engine: expected vLLM here, and it is not installed"):
        predict(made, tmp_path / "out.jsonl", engine="vllm")
    assert not (tmp_path / "out.jsonl").exists()


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr("svd_lightning.serving.offline.find_spec", lambda name: object())
    with pytest.raises(InputError, match=r"trainer\.devices: expected 1 with --engine vllm, .* got 2"):
        check_engine(2)


def test_more_prompts_at_a_time_are_for_vllm_alone(made):
    data = Prompts(str(made / "prompts.jsonl"), eval_batch_size=2)
    with at_once(data):
        assert data.eval_batch_size == AT_ONCE
    assert data.eval_batch_size == 2, "a test after it has the memory for no more"


def test_rows_of_another_engine_are_not_gone_on_from(made, tmp_path, monkeypatch):
    """vLLM draws other samples: in one file they would pass for those of one run."""
    monkeypatch.setattr("svd_lightning.serving.offline.find_spec", lambda name: object())
    target, part = tmp_path / "out.jsonl", tmp_path / "out.jsonl.part0"
    with pytest.raises(ConnectionError):
        predict(made, target, writer=StopAfterOne(output=str(target)))
    before = part.read_text()
    with pytest.raises(InputError, match="left by an interrupted run that differs in engine, engine options;"):
        predict(made, target, engine="vllm")
    assert part.read_text() == before
    predict(made, target)
    assert len(target.read_text().splitlines()) == 10


def test_where_it_runs_is_not_part_of_what_is_written():
    """A run that was interrupted on one GPU goes on with two."""
    given = {"dtype": "float32", "tensor_parallel_size": 2, "gpu_memory_utilization": 0.5, "max_num_seqs": 8}
    assert OfflineEngine(chain.diary_model(), given, seed=0).options == {"dtype": "float32"}


def test_options_that_vllm_lacks_are_named():
    check_options(GenerationConfig(max_new_tokens=4, do_sample=True, top_p=0.9, stop_strings=["x"], num_beams=1))
    with pytest.raises(InputError, match="got num_beams; leave them out"):
        check_options(GenerationConfig(num_beams=3))
    with pytest.raises(InputError, match="got no_repeat_ngram_size, penalty_alpha"):
        check_options(GenerationConfig(penalty_alpha=0.5, no_repeat_ngram_size=2))


needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None,
    reason="vLLM is not installed here: make test-vllm runs this beside it",
)


@needs_vllm
def test_the_file_is_the_same(made, tmp_path):
    """With an end that comes early in some rows."""
    predict(made, tmp_path / "first.jsonl")
    words = [
        json.loads(line)["completion"].split() for line in (tmp_path / "first.jsonl").read_text().splitlines()
    ]
    ends = {
        "eos_token_id": sorted({int(row[len(row) // 2][1:]) for row in words if row}),
        "repetition_penalty": 1.3,
    }
    files = [tmp_path / name for name in ("transformers.jsonl", "vllm.jsonl")]
    predict(made, files[0], generation=ends)
    module = predict(made, files[1], generation=ends, engine="vllm", engine_options=ENGINE)
    assert files[1].read_text() == files[0].read_text() != (tmp_path / "first.jsonl").read_text()
    assert module.engine is None, "the next predict decodes by itself again"


class StopAfterOne(PredictionWriter):
    """Breaks off after a batch, as a lost process would."""

    def write_on_batch_end(self, *arguments):
        super().write_on_batch_end(*arguments)
        raise ConnectionError("lost")


@needs_vllm
def test_an_interrupted_run_goes_on_and_draws_the_same(made, tmp_path, monkeypatch):
    monkeypatch.setattr("svd_lightning.serving.offline.AT_ONCE", 4)
    drawn = {"generation": {"do_sample": True, "temperature": 1.3}, "engine": "vllm", "engine_options": ENGINE}
    whole, target = tmp_path / "whole.jsonl", tmp_path / "target.jsonl"
    predict(made, whole, **drawn)
    with pytest.raises(ConnectionError):
        predict(made, target, writer=StopAfterOne(output=str(target)), **drawn)
    kept = (tmp_path / "target.jsonl.part0").read_text().splitlines()
    assert len(kept) == 1 + 4
    predict(made, target, **drawn)
    assert target.read_text() == whole.read_text()


@needs_vllm
def test_base_and_tuned_beside_it_are_refused(made, tmp_path):
    with pytest.raises(InputError, match=r"predict\.compare: expected false with --engine vllm"):
        predict(made, tmp_path / "out.jsonl", compare=True, engine="vllm", engine_options=ENGINE)
