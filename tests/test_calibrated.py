"""What `calibrate` finds serves every verb after it; where the guard says no, the tuned model is decoded."""

import copy
import json

import pytest
import torch

from svd_lightning.cli import main
from svd_lightning.decoding.generation import generate, generation_config
from svd_lightning.runs import find_checkpoint, open_run
from svd_lightning.steering import UNSTEERED
from tests.chain import diary_data, read_jsonl

MASK = ("--model.steering.alpha", "0.3")


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """Runs a verb; returns its run folder."""

    def start(verb, *arguments):
        folder = tmp_path_factory.mktemp(verb)
        quick = () if verb == "predict" else ("--calibration.alphas", "[]", "--calibration.show_table", "false")
        logger = ("--trainer.logger.init_args.save_dir", str(folder))
        main([verb, "--config", str(config), *logger, *quick, *arguments])
        return folder / "run/version_0"

    return start


@pytest.fixture(scope="module")
def recalibrated(run, checkpoint):
    """A warm start, calibrated again under another mask."""
    return run("calibrate", "--ckpt_path", checkpoint, "--calibration.guard", "false", *MASK)


@pytest.fixture
def prompts(diaries):
    """The batch that predict sees, for a module."""

    def batch(module):
        data = diary_data(diaries)
        data.tokenizer = module.tokenizer
        [found] = data.predict_dataloader()
        return found

    return batch


def test_its_strengths_and_the_adapter_are_in_one_checkpoint(recalibrated, fitted):
    record = json.loads((recalibrated / "calibration.json").read_text())
    module, before = open_run(recalibrated), open_run(fitted)
    assert find_checkpoint(recalibrated).name == "calibrated.ckpt"
    assert (module.steering.alpha, list(module.steering.strengths)) == (0.3, record["strengths"])
    assert module.steering.strengths != before.steering.strengths
    for name, weight in before.peft_model.state_dict().items():
        assert torch.equal(module.peft_model.state_dict()[name], weight)


def test_predict_decodes_with_them(run, recalibrated, prompts):
    weights = str(recalibrated / "checkpoints/calibrated.ckpt")
    rows = read_jsonl(run("predict", "--ckpt_path", weights, *MASK) / "predictions.jsonl")
    module = open_run(recalibrated)
    ways = {"config": module.generation, "tokenizer": module.tokenizer}
    found = generate(module.peft_model, prompts(module), module.steering, **ways)
    assert [[row["completion"]] for row in rows] == found


def test_test_compares_all_candidates_under_the_new_mask(run, recalibrated):
    weights = str(recalibrated / "checkpoints/calibrated.ckpt")
    folder = run("test", "--ckpt_path", weights, *MASK)
    tested, metrics = (json.loads((folder / name).read_text()) for name in ("test.json", "test_metrics.json"))
    record = json.loads((recalibrated / "calibration.json").read_text())
    assert (tested["alpha"], tested["strengths"]) == (0.3, record["strengths"])
    joint = next(c["strengths"] for c in record["candidates"] if len(c["rules"]) == 3)
    assert metrics["distributions"]["joint"]["strengths"] == joint


def test_it_is_no_checkpoint_to_train_on_from(run, recalibrated):
    weights = str(recalibrated / "checkpoints/calibrated.ckpt")
    with pytest.raises(SystemExit, match=r"ckpt_path: expected a checkpoint of `fit` to resume from"):
        run("fit", "--ckpt_path", weights, *MASK)


@pytest.mark.parametrize(
    "options", [{"do_sample": False}, {"do_sample": True}, {"num_beams": 3}], ids=["greedy", "sampling", "beams"]
)
def test_where_the_guard_says_no_the_tuned_model_is_decoded_as_it_is(options, checkpoint, prompts):
    module = open_run(checkpoint)
    record = copy.deepcopy(module.calibration)
    record["used"] = {**record["used"], "rules": record["rules"], "strengths": [0.0] * len(record["rules"])}
    module.adopt(record)
    config = generation_config({"max_new_tokens": 12, **options})

    def decoded(steering):
        torch.manual_seed(0)
        ways = {"config": config, "tokenizer": module.tokenizer}
        return generate(module.peft_model, prompts(module), steering, **ways)

    assert decoded(module.steering) == decoded(UNSTEERED["tuned"])
