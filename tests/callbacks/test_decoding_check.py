"""Calibrations checked by decoding: slips that the likelihood does not see, and what is left alone."""

import logging

import pytest
import torch

from svd_lightning.calibration.split import example_folds
from svd_lightning.callbacks import SteeringCalibration
from svd_lightning.commands.demo.task import TASK
from svd_lightning.data import JSONLChoices
from svd_lightning.data.collate import PredictionCollator
from svd_lightning.decoding.generation import generate
from svd_lightning.steering import NaturalGradient, Steering
from tests.chain import diary_data, diary_model, quiet_trainer, write_diaries, write_jsonl
from tests.scoring.questions import diary_rows


class Slipped(NaturalGradient):
    """Calibrates as its parent, and decodes at 24 times its scale: only there logits are [B, 1, V]."""

    def direction(self, log_p, log_q, centre):
        return super().direction(log_p, log_q, centre) * (24.0 if log_p.ndim == 3 else 1.0)


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory):
    return write_diaries(tmp_path_factory.mktemp("data"), calibration=40, validation=2)


@pytest.fixture
def calibrated(checkpoint, data_folder, tmp_path):
    """Calibrates the adapter of a finished run; returns the module."""

    def run(steering=Steering(), *, data=None, generation=None, context=None, **options):  # noqa: B008  frozen
        module = diary_model(steering=steering, generation=generation or {"max_new_tokens": 16})
        module.context_length = context or module.context_length
        given = {
            "alphas": (),
            "others": False,
            "corrections": False,
            "show_table": False,
            "decoded": 24,
            **options,
        }
        trainer = quiet_trainer(tmp_path, SteeringCalibration(**given))
        trainer.calibrate(module, datamodule=data or diary_data(data_folder), ckpt_path=checkpoint)
        return module

    return run


@pytest.mark.parametrize("alpha", [0.1, None])
def test_a_slip_that_only_decoding_shows_is_not_switched_on(alpha, calibrated, caplog):
    module = calibrated(Steering([Slipped()], alpha=alpha))
    record = module.calibration
    assert record["gain_over_tuned"]["low"] > 0, "the likelihood says that it helps"
    assert record["gain_over_control"]["low"] > 0
    assert "repeated_trigrams" in record["decoding"]["worse"]
    assert (record["verdict"], record["used"]["strengths"]) == ("tuned", [0.0])
    assert record["message"].startswith("steering is not used: decoded freely it is surely worse")
    assert "repeated trigrams 0 → " in record["message"]
    assert (module.steering.strengths, module.steering.penalty) == ((0.0,), 0.0)
    assert any("decoded freely" in message for message in caplog.messages)


def test_without_the_guard_the_slip_is_said_and_used(calibrated, caplog):
    record = calibrated(Steering([Slipped()]), guard=False).calibration
    assert record["used"]["strengths"] == record["strengths"] != [0.0]
    assert record["message"].endswith("guard is off, so it is used all the same")
    assert record["message"] in " ".join(caplog.messages)


def test_what_writes_as_well_stays_on_and_is_decoded_with_strengths_found_without_it(calibrated, data_folder):
    module = calibrated(Steering([NaturalGradient()]))
    record = module.calibration
    assert record["decoding"]["examples"] == 24
    assert record["decoding"]["worse"] == []
    assert record["verdict"] == "steer"
    assert list(module.steering.strengths) == record["strengths"]
    data = diary_data(data_folder)
    data.tokenizer = module.tokenizer
    rows = {(row.prompt, row.completion): row for row in data.rows("calibration")}
    _, fold = example_folds(torch.arange(40), 4)
    assert len(record["decoding"]["texts"]) == 3
    for text in record["decoding"]["texts"]:
        row = rows[text["prompt"], text["reference"]]
        steering = module.configured.with_strengths(record["used"]["fold_strengths"][int(fold[row.index])])
        batch = PredictionCollator(pad_token_id=0)([row])
        options = {"config": module.generation, "tokenizer": module.tokenizer}
        assert text["steered"] == generate(module.peft_model.eval(), batch, steering, **options)[0][0]


@pytest.mark.parametrize(
    "options", [{"decoded": 0}, {"steering": Steering(strengths=(2.0,))}], ids=["left-out", "strengths-given"]
)
def test_nothing_is_decoded_where_nothing_is_to_be_decided(options, calibrated):
    record = calibrated(**{"guard": False, **options}).calibration
    assert "decoding" not in record
    assert all(("cost" in one) == (options.get("decoded") != 0) for one in record["candidates"])


def test_the_tuned_model_is_not_checked_against_itself(calibrated, data_folder):
    """Two examples prove no gain."""
    few = write_jsonl(data_folder / "few.jsonl", TASK.sample(2, seed=9, prefix="few"))
    record = calibrated(data=diary_data(data_folder, calibration_path=str(few))).calibration
    assert record["used"]["strengths"] == [0.0]
    assert "decoding" not in record


def test_choices_among_options_are_left_out_with_a_word(calibrated, data_folder, caplog):
    paths = {
        f"{split}_path": str(write_jsonl(data_folder / f"choices-{split}.jsonl", diary_rows(12, seed=seed)))
        for seed, split in enumerate(("calibration", "validation"))
    }
    train = write_jsonl(data_folder / "choices.jsonl", diary_rows(8, seed=7))
    data = JSONLChoices(str(train), eval_batch_size=8, max_length=64, test=None, **paths)
    with caplog.at_level(logging.INFO):
        record = calibrated(data=data, guard=False).calibration
    assert "decoding" not in record
    assert any("decoding is not checked: the answers are choices" in message for message in caplog.messages)


def test_prompts_without_room_for_an_answer_are_left_out_with_a_word(calibrated, caplog):
    record = calibrated(guard=False, generation={"max_new_tokens": 60}, context=64).calibration
    assert "decoding" not in record
    assert any("no calibration prompt leaves room for" in message for message in caplog.messages)


def test_sampled_answers_change_no_later_random_number_and_count_once(calibrated):
    generation = {"do_sample": True, "num_return_sequences": 2, "max_new_tokens": 8}
    after = []
    for decoded in (0, 4):
        torch.manual_seed(5)
        record = calibrated(guard=False, generation=generation, decoded=decoded).calibration
        after.append(torch.rand(3).tolist())
    assert after[0] == after[1]
    assert record["decoding"]["examples"] == 4
    assert not any("[" in text["steered"] for text in record["decoding"]["texts"])
