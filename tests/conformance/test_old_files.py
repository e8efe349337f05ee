"""Checkpoints, run folders and artefacts of the code before its modules moved load, and steer as they did.

`tests/fixtures/make.py` made them with that code, and wrote down with `observed` what they gave.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from svd_lightning import load_artifact, steer_model
from svd_lightning.cli import main
from svd_lightning.report import load_run, page
from svd_lightning.runs import open_run
from svd_lightning.steering import Steering, TaskSteering
from tests.chain import ROOT, read_jsonl

OLD = ROOT / "tests" / "fixtures" / "old"
RUNS = ("fit", "calibrate", "constant")
TASKS = (None, "climate", "plain")
PROMPTS = ("winter on the moor , by a monk :", "summer on the coast , by a poet :")


def observed(model: PeftModel, steering: TaskSteering, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """For each task the strengths, the tokens of greedy decoding, and the logit of each at its place."""
    return {str(task): _of_one(model, steering.of_task(task), tokenizer) for task in TASKS}


def _of_one(model: PeftModel, steering: Steering, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    prompts = tokenizer(PROMPTS, return_tensors="pt", padding=True, return_token_type_ids=False)
    found = steer_model(model, steering).generate(
        **prompts, max_new_tokens=8, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    tokens = found.sequences[:, prompts["input_ids"].shape[1] :]
    logits = torch.stack(found.logits, dim=1).gather(-1, tokens[..., None])[..., 0]
    return {"strengths": list(steering.strengths), "tokens": tokens.tolist(), "logits": logits.tolist()}


@pytest.fixture
def old(tmp_path, monkeypatch) -> Path:
    """A copy of the files as working directory, for their paths are relative."""
    monkeypatch.chdir(shutil.copytree(OLD, tmp_path / "old"))
    return Path()


@pytest.fixture
def same(old) -> Callable[[str, Mapping[str, Any]], None]:
    """Compares with what the old code gave."""
    known = json.loads((old / "expected.json").read_text())

    def compare(name: str, found: Mapping[str, Any]) -> None:
        assert found.keys() == known[name].keys()
        for task, then in known[name].items():
            assert found[task]["tokens"] == then["tokens"]
            assert found[task]["strengths"] == pytest.approx(then["strengths"], abs=1e-6)
            torch.testing.assert_close(
                *map(torch.tensor, (found[task]["logits"], then["logits"])), atol=1e-4, rtol=0
            )

    return compare


@pytest.mark.parametrize("name", RUNS)
def test_a_run_steers_as_it_did(name, old, same):
    module = open_run(old / name)
    same(name, observed(module.peft_model, module.task_steering, module.tokenizer))


def test_an_artefact_steers_as_it_did(old, same):
    artifact = load_artifact(old / "artefact")
    same("artefact", observed(artifact.peft_model, artifact.task_steering, artifact.tokenizer))


def test_an_artefact_decodes_with_the_code_that_it_carries(old, same):
    artifact = load_artifact(old / "artefact")
    known = json.loads((old / "expected.json").read_text())["artefact"]["climate"]["tokens"]
    prompts = artifact.tokenizer(PROMPTS, return_tensors="pt", padding=True, return_token_type_ids=False)
    options = {"max_new_tokens": 8, "do_sample": False, "task": "climate"}
    found = artifact.peft_model.generate(
        **prompts, **options, custom_generate=str(old / "artefact"), trust_remote_code=True
    )
    assert found[:, prompts["input_ids"].shape[1] :].tolist() == known


@pytest.mark.parametrize("name", RUNS)
def test_a_run_folder_is_reported(name, old):
    found = load_run(old / name, test=old / "test" if name == "calibrate" else None)
    assert (found.table is None) == (name == "constant")  # without a mask no table is kept
    assert found.record["message"].lower() in page(found).lower()
    if name == "calibrate":
        assert found.test is not None
        assert found.rules is not None


def test_a_configuration_still_runs(old):
    main(["predict", "--config", "predict/config.yaml", "--trainer.logger.init_args.version", "again"])
    again, before = (read_jsonl(old / folder / "predictions.jsonl") for folder in ("again", "predict"))
    assert again == before


@pytest.mark.parametrize("name", RUNS)
def test_a_checkpoint_is_written_again_with_short_names(name, old):
    [path] = (old / name / "checkpoints").iterdir()
    parts = torch.load(path, weights_only=True)["hyper_parameters"]["steering"]
    before = [part["class_path"].split(".") for part in (*parts["rules"], *parts["features"])]
    parts = open_run(path).hparams["steering"]
    after = [part["class_path"].split(".") for part in (*parts["rules"], *parts["features"])]
    assert all(len(names) == 4 for names in before)
    assert after == [["svd_lightning", package, kind] for _, package, _, kind in before]
