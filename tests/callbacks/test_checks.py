"""What is refused before the first training step."""

import lightning as L
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from peft import AdaLoraConfig

from svd_lightning import SteeringCalibration
from svd_lightning.callbacks.checks import as_steered, check_estimator
from svd_lightning.callbacks.run import as_completion_data
from svd_lightning.errors import InputError
from svd_lightning.steering import KLGradient, NaturalGradient, Steering
from svd_lightning.strength import Fixed, LineSearch, Mean
from svd_lightning.trainer import SteeringTrainer
from tests.chain import Losses, diary_data, diary_model, fit, plain_calibration, small_lora

NO_SPLIT = "expected a calibration split of 2 examples or more, got none"


def refused(folder, data, *callbacks, message, module=None, **options):
    losses = Losses()
    with pytest.raises(InputError, match=message) as caught:
        fit(folder, module or diary_model(), data, losses, *callbacks, **options)
    assert not losses.values
    assert not list((folder / "run").glob("*")), "a refused run leaves no folder"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calibration_path": None, "calibration": None}, NO_SPLIT),
        ({"calibration_path": None, "calibration": 0}, NO_SPLIT),
        ({"calibration_path": None, "calibration": 1}, "a calibration split of 2 examples or more, got 1;"),
        ({"calibration_path": "train.jsonl"}, "expected splits without a common example, got 48"),
    ],
    ids=["none", "zero", "one", "overlap"],
)
def test_calibration_split(options, message, diaries, tmp_path):
    if options["calibration_path"]:
        options = {"calibration_path": str(diaries / options["calibration_path"])}
    refused(tmp_path, diary_data(diaries, **options), message=message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "calibration.folds: expected at least 2, got 1"),
        ({"decoded": -1}, "calibration.decoded: expected a number of examples, or 0 for no check, got -1"),
        ({"alphas": [0.1, 0.0]}, r"calibration.alphas: expected shares in \(0, 1\], got 0.0"),
        ({"alphas": [1.5]}, r"calibration.alphas: expected shares in \(0, 1\], got 1.5"),
    ],
)
def test_options_out_of_range_are_refused_at_once(options, message):
    with pytest.raises(InputError, match=message):
        SteeringCalibration(**options)


@pytest.mark.parametrize(
    ("data", "limits", "message"),
    [
        ({"validation_path": None, "validation": None}, {}, "data.validation: calibrate ends with a validation"),
        ({}, {"limit_val_batches": 0}, "trainer.limit_val_batches: .*expected more than 0"),
    ],
)
def test_calibrate_without_a_validation_is_refused_before_weights_are_loaded(
    data, limits, message, diaries, tmp_path
):
    trainer = SteeringTrainer(
        accelerator="cpu", logger=False, default_root_dir=tmp_path, callbacks=[SteeringCalibration()], **limits
    )
    module = diary_model()
    with pytest.raises(InputError, match=message):
        trainer.calibrate(module, datamodule=diary_data(diaries, **data), ckpt_path="not read")
    assert module.model is None


@pytest.mark.parametrize(
    ("checkpointing", "options"),
    [
        ({"save_on_train_epoch_end": False}, {}),
        ({}, {"val_check_interval": 0.5}),
        ({}, {"val_check_interval": 2}),
        ({}, {"check_val_every_n_epoch": 2}),
        ({"every_n_train_steps": 6}, {}),
        ({"every_n_train_steps": 6, "save_on_train_epoch_end": True}, {}),
    ],
)
def test_checkpoints_that_would_miss_the_calibration(checkpointing, options, diaries, tmp_path):
    message = "ModelCheckpoint would save before the epoch's calibration"
    refused(tmp_path, diary_data(diaries), ModelCheckpoint(**checkpointing), message=message, **options)


@pytest.mark.parametrize(
    ("checkpointing", "options"),
    [
        ({"save_on_train_epoch_end": True}, {"val_check_interval": 0.5}),
        ({}, {"val_check_interval": 0.5, "limit_val_batches": 0}),
        ({"every_n_epochs": 2}, {"max_epochs": 2}),
    ],
)
def test_checkpoints_that_hold_the_calibration(checkpointing, options, diaries, tmp_path):
    trainer = fit(
        tmp_path, module := diary_model(), diary_data(diaries), ModelCheckpoint(**checkpointing), **options
    )
    again = type(module).load_from_checkpoint(trainer.checkpoint_callback.best_model_path)
    assert again.calibration == module.calibration


def test_step_checkpoints_may_stand_beside_an_epoch_s(diaries, tmp_path):
    both = ModelCheckpoint(every_n_train_steps=2, save_top_k=-1), ModelCheckpoint(save_last=True)
    trainer = fit(tmp_path, diary_model(), diary_data(diaries), *both)
    assert len(list((tmp_path / "run/version_0/checkpoints").iterdir())) >= 4
    assert trainer.checkpoint_callbacks[1].last_model_path


@pytest.mark.parametrize("alpha", [0.1, None])
def test_an_estimator_is_tried_before_training(alpha):
    steering = Steering([KLGradient(), NaturalGradient()], alpha=alpha)
    check_estimator(LineSearch(), steering)
    with pytest.raises(InputError, match="defined for a single rule"):
        check_estimator(Mean(), steering)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (Mean(), "defined for a single rule, got 2; use LineSearch"),
        (Fixed([1.0]), r"strengths: expected one per rule \(2\), got 1"),
    ],
)
def test_an_estimator_that_does_not_fit_the_rules(estimator, message, diaries, tmp_path):
    module = diary_model(steering=Steering([KLGradient(), NaturalGradient()]))
    refused(tmp_path, diary_data(diaries), plain_calibration(estimator=estimator), module=module, message=message)


def test_an_adapter_that_needs_more_than_gradients(diaries, tmp_path):
    module = diary_model(AdaLoraConfig(target_modules=["q_proj"], total_step=9))
    refused(tmp_path, diary_data(diaries), module=module, message="gives every layer its rank during")


def test_an_adapter_that_cannot_be_decoded():
    with pytest.raises(InputError, match="an activated LoRA is switched on by tokens"):
        diary_model(small_lora(alora_invocation_tokens=[5]))


def test_other_modules_and_data():
    with pytest.raises(InputError, match="model: expected a SteeredLanguageModel, got LightningModule"):
        as_steered(L.LightningModule())
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.datamodule = None
    with pytest.raises(InputError, match=r"datamodule: expected a svd_lightning\.data\.CompletionDataModule"):
        as_completion_data(trainer)
