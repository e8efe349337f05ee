"""A calibration in bfloat16 says how much of its direction is rounding, and what is calibrated is what decodes."""

import json
from pathlib import Path

import lightning as L
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from svd_lightning.artifact import load_artifact, save_artifact
from svd_lightning.commands.demo import BASE_FOLDER
from svd_lightning.decoding.generation import generate
from svd_lightning.models import Backbone
from svd_lightning.runs import open_run
from tests.chain import diary_data, diary_model, fit, quiet_trainer


@pytest.fixture(scope="module")
def bf16_run(diaries, tmp_path_factory):
    """A run in bf16-true of a base that is stored in float32, and its module."""
    L.seed_everything(0, verbose=False)
    module = diary_model()
    trainer = fit(tmp_path_factory.mktemp("bf16"), module, diary_data(diaries), precision="bf16-true")
    return trainer, module


def test_signal_and_noise_are_on_record(bf16_run):
    trainer, module = bf16_run
    record = json.loads((Path(trainer.log_dir) / "calibration.json").read_text())
    formats = {"weights": "bfloat16", "products": "bfloat16", "residual": "bfloat16", "head": "float32"}
    assert record["arithmetic"] == module.calibration["arithmetic"] == formats
    assert 0 < record["noise"]["noise"] < record["noise"]["signal"]
    assert record["noise"]["tokens"] >= 64


def test_a_direction_of_rounding_alone_is_refused(diaries, tmp_path):
    module = diary_model(learning_rate=1e-7)
    fit(tmp_path, module, diary_data(diaries), precision="bf16-true")
    noise = module.calibration["noise"]
    assert noise["noise"] >= noise["signal"] > 0
    assert module.steering.strengths == (0.0,)


def test_float32_is_not_measured(fitted):
    assert "noise" not in json.loads((fitted / "calibration.json").read_text())


def test_run_and_artefact_decode_in_the_formats_of_the_calibration(bf16_run, diaries, tmp_path, caplog):
    """They load a base of float32, and give the tokens that predict wrote in bfloat16."""
    trainer, module = bf16_run
    checkpoint = trainer.checkpoint_callback.last_model_path
    predicted = quiet_trainer(tmp_path, precision="bf16-true").predict(module, datamodule=diary_data(diaries))
    written = [row["completion"] for batch in predicted for row in batch]
    assert not any("calibrated with" in message for message in caplog.messages)
    opened = open_run(checkpoint)
    assert opened.peft_model.get_base_model().dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 for p in opened.peft_model.parameters() if p.requires_grad)
    folder = save_artifact(
        tmp_path / "out", opened.peft_model, opened.task_steering, opened.tokenizer, calibration=opened.calibration
    )
    loaded = load_artifact(folder)
    given = load_artifact(folder, base=Backbone(str(BASE_FOLDER), dtype="bfloat16").load_model())
    data = diary_data(diaries)
    data.tokenizer = opened.tokenizer
    data.setup("predict")
    [batch] = data.predict_dataloader()
    for model, steering in (
        (opened.peft_model, opened.task_steering.shared),
        (loaded.peft_model, loaded.steering),
        (given.peft_model, given.steering),
    ):
        rows = generate(model, batch, steering, config=module.generation, tokenizer=opened.tokenizer)
        assert [text for [text] in rows] == written
    prompts = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    for dtype, warned in ((torch.bfloat16, 0), (torch.float32, 1)):
        caplog.clear()
        base = AutoModelForCausalLM.from_pretrained(BASE_FOLDER, dtype=dtype)
        ids = PeftModel.from_pretrained(base, folder).generate(
            **prompts, custom_generate=str(folder), trust_remote_code=True, generation_config=module.generation
        )
        texts = opened.tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        assert texts == written or warned
        assert sum("was calibrated with weights bfloat16" in message for message in caplog.messages) == warned


def test_another_precision_than_that_of_the_calibration_is_said(bf16_run, diaries, tmp_path, caplog):
    trainer, _ = bf16_run
    checkpoint = trainer.checkpoint_callback.last_model_path
    quiet_trainer(tmp_path).predict(diary_model(), datamodule=diary_data(diaries), ckpt_path=checkpoint)
    assert "calibrated with weights bfloat16, products bfloat16, residual bfloat16" in caplog.text


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "32-true"])
def test_an_adapter_moves_in_every_precision(precision, diaries, tmp_path):
    """In bfloat16 steps of a five-thousandth would leave most weights where they are."""
    module = diary_model(learning_rate=2e-4)
    module.configure_model()
    before = {name: p.detach().clone() for name, p in module.named_parameters() if "lora_A" in name}
    trainer = quiet_trainer(tmp_path, precision=precision, limit_val_batches=0)
    trainer.fit(module, datamodule=diary_data(diaries))
    moved = [(p != before[name]).float().mean() for name, p in module.named_parameters() if "lora_A" in name]
    assert min(moved) > 0.9
