"""An adapter at the wrong scale, from calibrate to export: what a user runs."""

import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from svd_lightning import SteeredLanguageModel, SteeringCalibration
from svd_lightning.calibration import LabelSplit
from svd_lightning.callbacks import PredictionWriter
from svd_lightning.callbacks.scale_fit import fit_adapter_scale
from svd_lightning.commands.export import export
from svd_lightning.commands.inspect.subject import open_subject
from svd_lightning.decoding import steer_model
from svd_lightning.errors import InputError
from svd_lightning.report import calibration_tables
from svd_lightning.scoring.scaled import bare_labels
from svd_lightning.steering import AdapterScale, Corrected
from tests import chain
from tests.scoring.questions import random_module


@pytest.fixture(scope="module")
def halved(diaries, tmp_path_factory):
    """Diaries, the calibration's written by a model, and the folder of its adapter with B divided by 2."""
    folder, module = tmp_path_factory.mktemp("halved"), random_module()
    weights = [weight for name, weight in module.peft_model.named_parameters() if "lora_B" in name]
    rows = [json.loads(line) for line in (diaries / "calibration.jsonl").read_text().splitlines()]
    tokenizer = module.tokenizer
    prompts = [row["prompt"] for row in rows]
    with torch.no_grad():
        for weight in weights:
            weight *= 8  # far from the base
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
        ids = module.peft_model.generate(**inputs, do_sample=True, top_k=0, max_new_tokens=32)
        for weight in weights:
            weight /= 2
    module.peft_model.save_pretrained(folder / "adapter")
    texts = tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    written = [{**row, "completion": text.strip() or "."} for row, text in zip(rows, texts, strict=True)]
    path = chain.write_jsonl(folder / "calibration.jsonl", written)
    return chain.diary_data(diaries, calibration_path=str(path)), folder / "adapter"


@pytest.fixture(scope="module")
def scaled(halved, tmp_path_factory):
    """A calibration of it that tries the scale among the corrections: the module, the run folder, the data."""
    folder, (data, adapter) = tmp_path_factory.mktemp("scaled"), halved
    module = chain.diary_model(str(adapter))
    callback = SteeringCalibration(scale=True, others=False, alphas=(), decoded=4, show_table=False)
    chain.quiet_trainer(folder, callback).calibrate(module, datamodule=data)
    return module.eval(), folder / "run/version_0", data


def test_the_scale_is_found(scaled):
    module, run, _ = scaled
    record = json.loads((run / "calibration.json").read_text())
    first = record["corrections"][0]
    assert first["name"] == "AdapterScale"
    assert first["settings"]["scale"] == 1.25**3, "the nearest to 2"
    assert first["nll"] < record["nll_tuned"]
    assert first["gain"]["low"] > 0.0
    assert record["used"]["correction"] == "AdapterScale"
    assert record["message"].startswith("the adapter scale helps most")
    assert record["decoding"]["examples"] == 4
    assert all(one["cost"] > 0.0 for one in (*record["candidates"], *record["corrections"]))
    assert isinstance(module.steering, Corrected)
    assert module.steering.correction == AdapterScale(first["settings"]["scale"])
    tables = [one for one in calibration_tables(module.calibration) if not isinstance(one, str)]
    shown = str([row for table in tables for row in table.rows])
    assert f"× {first['settings']['scale']:.3g}" in shown


def test_what_is_measured_is_what_decodes(scaled):
    """The NLL of the record, by the logits that decoding makes."""
    module, _, data = scaled
    decoder, found = steer_model(module.peft_model, module.steering), []
    for batch in data.calibration_dataloader():
        with torch.no_grad():
            logits = decoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        labels = batch["labels"][:, 1:]
        log_p = logits[:, :-1].log_softmax(-1).gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        found.append(log_p[labels >= 0])
    assert -torch.cat(found).mean().item() == pytest.approx(module.calibration["corrections"][0]["nll"], abs=1e-5)


def test_checkpoint_test_predict_and_inspect_know_it(scaled, tmp_path):
    module, run, data = scaled
    weights = run / "checkpoints/calibrated.ckpt"
    again = SteeredLanguageModel.load_from_checkpoint(weights)
    assert again.corrections["AdapterScale"] == module.corrections["AdapterScale"]
    trainer = chain.quiet_trainer(tmp_path, SteeringCalibration(show_table=False))
    [metrics] = trainer.test(again, datamodule=data, ckpt_path=weights, verbose=False)
    tested = json.loads((tmp_path / "run/version_0/test.json").read_text())
    assert tested["correction"] == "AdapterScale"
    assert tested["corrections"][0]["nll"] == pytest.approx(metrics["test/nll_steered"], abs=1e-5)
    assert metrics["test/nll_steered"] != pytest.approx(metrics["test/nll_tuned"], abs=1e-2)
    writer = PredictionWriter(output=str(tmp_path / "rows.jsonl"))
    predicting = chain.quiet_trainer(tmp_path, writer)
    predicting.predict(again, data, ckpt_path=weights, return_predictions=False)
    row = chain.read_jsonl(tmp_path / "rows.jsonl")[0]
    prompt = module.tokenizer(row["prompt"], return_tensors="pt")
    ids = steer_model(module.peft_model, module.steering).generate(**prompt, max_new_tokens=16)[0]
    text = module.tokenizer.decode(ids[prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    assert row["completion"] == text
    subject = open_subject(run)
    assert subject.steering.correction == module.steering.correction
    assert "AdapterScale" in subject.notes[0]


def test_the_export_is_a_plain_adapter(scaled, tmp_path):
    module, run, _ = scaled
    folder = export(str(run), str(tmp_path / "out"))
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["lora_alpha"] == 8 * module.steering.correction.scale
    base = AutoModelForCausalLM.from_pretrained(chain.BASE_FOLDER)
    plain, scaled = PeftModel.from_pretrained(base, folder).eval(), steer_model(module.peft_model, module.steering)
    prompt = module.tokenizer("winter on the coast", return_tensors="pt")
    found, expected = (one.generate(**prompt, max_new_tokens=8, do_sample=False) for one in (plain, scaled))
    assert torch.equal(found, expected)


def test_an_adapter_without_a_scale_is_left_out(halved, tmp_path, caplog):
    module = chain.diary_model(chain.small_lora(use_dora=True))
    module.configure_model()
    labels = LabelSplit(bare_labels().compute())
    options = {"folds": 4, "choice": True, "progress": iter}
    assert fit_adapter_scale(chain.quiet_trainer(tmp_path), module.eval(), halved[0], labels, **options) == []
    assert "the adapter scale is not tried: it needs plain LoRA or IA3, got LoRA with DoraLinear" in caplog.text
    with pytest.raises(
        InputError, match=r"calibration\.corrections: expected true, .*got 'AdapterScale'; the adapter"
    ):
        SteeringCalibration(corrections=["Prior", "AdapterScale"])


def test_it_is_tried_alone(scaled, halved, tmp_path):
    """Where no other correction is wanted its fit is the same."""
    data, adapter = halved
    module = chain.diary_model(str(adapter))
    callback = SteeringCalibration(
        corrections=False, scale=True, others=False, alphas=(), decoded=0, show_table=False
    )
    chain.quiet_trainer(tmp_path, callback).calibrate(module, datamodule=data)
    [found] = module.calibration["corrections"]
    first = scaled[0].calibration["corrections"][0]
    assert {name: found[name] for name in ("name", "settings", "nll", "gain")} == {
        name: first[name] for name in ("name", "settings", "nll", "gain")
    }
