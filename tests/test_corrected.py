"""A calibration that uses a correction, from fit to predict: what a user runs."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, GenerationConfig

from svd_lightning import SteeredLanguageModel, SteeringCalibration
from svd_lightning.artifact.content import files_of
from svd_lightning.calibration import HeldOutSteering, recall_all
from svd_lightning.callbacks.decoding_check import check_decoding
from svd_lightning.callbacks.show import show_calibration
from svd_lightning.commands.export import export
from svd_lightning.decoding import steer_model
from svd_lightning.decoding.plain import PlainModel
from svd_lightning.errors import InputError
from svd_lightning.objective import label_tokens
from svd_lightning.report.words import correction_words
from svd_lightning.scoring import score_tokens
from svd_lightning.steering import Corrected, LabelBias, correction_name
from tests import chain


@pytest.fixture(scope="module")
def corrected(diaries, tmp_path_factory):
    """A model that barely learned, calibrated: its marginal over the labels is wrong, which a correction mends."""
    folder = tmp_path_factory.mktemp("corrected")
    model, data = chain.diary_model(learning_rate=1e-4), chain.diary_data(diaries)
    trainer = chain.fit(folder, model, data, SteeringCalibration(decoded=4, show_table=False))
    return model, trainer, data


def test_the_record_names_it_and_decoding_was_checked(corrected):
    _, trainer, _ = corrected
    record = json.loads((Path(trainer.log_dir) / "calibration.json").read_text())
    assert record["verdict"] == "correct"
    assert record["used"]["correction"] in ("LabelBias", "CalibratedHead")
    assert record["decoding"]["examples"] == 4
    assert not record["decoding"]["worse"]


def test_what_is_measured_is_what_decodes(corrected):
    """Held-out NLL of the record, by the module's own scoring and by the logits that decoding makes."""
    model, _, data = corrected
    name = model.calibration["used"]["correction"]
    [row] = [one for one in model.calibration["corrections"] if one["name"] == name]
    steering = model.eval().steering
    assert isinstance(steering, Corrected)
    decoder = steer_model(model.peft_model, steering)
    assert isinstance(decoder, PlainModel)
    scored, decoded = [], []
    for batch in data.calibration_dataloader():
        with torch.no_grad():
            scored.append(score_tokens(model.peft_model, batch, steering).steered)
            logits = decoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        labels = batch["labels"][:, 1:]
        log_p = logits[:, :-1].log_softmax(-1).gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        decoded.append(log_p[labels >= 0])
    assert -torch.cat(scored).mean().item() == pytest.approx(row["nll"], abs=1e-5)
    assert -torch.cat(decoded).mean().item() == pytest.approx(row["nll"], abs=1e-5)


def test_a_checkpoint_brings_it_back(corrected):
    model, trainer, data = corrected
    again = SteeredLanguageModel.load_from_checkpoint(Path(trainer.log_dir) / "checkpoints" / "last.ckpt")
    assert isinstance(again.steering, Corrected)
    assert correction_name(again.steering.correction) == model.calibration["used"]["correction"]
    for name, one in model.corrections.items():
        assert torch.equal(again.corrections[name].weights, one.weights)
        assert set(one.tokens.tolist()) <= set(
            label_tokens([row.completion_ids for row in data.rows("calibration")]).tolist()
        )


def test_a_correction_at_24_times_its_scale_is_refused_by_decoding(corrected):
    """The slip of method.md §10: every likelihood is computed elsewhere and looks well; only decoding shows it."""
    model, trainer, data = corrected
    name, example = "CalibratedHead", torch.arange(chain.SPLITS["calibration"])
    fitted, before = model.corrections[name], copy.deepcopy(model.calibration)
    before["used"]["correction"] = name
    slip = replace(fitted, weights=24.0 * fitted.weights)
    model.eval()
    steering = HeldOutSteering(model.configured, before, example, {name: [slip] * 4})
    record = check_decoding(trainer, model, data, before, steering, count=24, progress=iter)
    assert "repeated_trigrams" in record["decoding"]["worse"]
    assert record["verdict"] == "tuned"
    assert "decoded freely it is surely worse" in record["message"]
    assert not isinstance(recall_all(model.configured, record, model.corrections).shared, Corrected)


@pytest.mark.parametrize("form", [None, "steering"])
def test_the_run_is_exported(form, corrected, tmp_path):
    """In the plainest form, and with code for generate."""
    model, trainer, data = corrected
    folder = export(trainer.log_dir, str(tmp_path / "out"), form=form)
    ids = torch.as_tensor(data.rows("calibration")[0].prompt_ids)[None]
    given = {"do_sample": False, "max_new_tokens": 8}
    expected = steer_model(model.eval().peft_model, model.steering).generate(ids, **given)
    if form is None:
        given["generation_config"] = GenerationConfig.from_pretrained(folder)
    else:
        given |= {"custom_generate": str(folder), "trust_remote_code": True}
    base = AutoModelForCausalLM.from_pretrained(model.backbone.name_or_path)
    found = PeftModel.from_pretrained(base, folder).eval().generate(input_ids=ids, **given)
    assert torch.equal(found, expected)


def test_an_export_is_replaced_unless_somebody_changed_it(corrected, tmp_path):
    _, trainer, _ = corrected
    out = str(tmp_path / "out")
    folder = export(trainer.log_dir, out)
    written = files_of(folder)
    for form in ("steering", None):
        assert export(trainer.log_dir, out, form=form) == folder
    assert files_of(folder) == written
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="holds an export that is damaged or was edited; move it away"):
        export(trainer.log_dir, out)
    (tmp_path / "mine/notes").mkdir(parents=True)
    for other in ("[]", '{"files": []}', "half"):
        (tmp_path / "mine/export.json").write_text(other)
        with pytest.raises(InputError, match=r"which holds export\.json; choose another name"):
            export(trainer.log_dir, str(tmp_path / "mine"))


def test_a_form_that_cannot_hold_it_is_refused(corrected, tmp_path):
    model, trainer, _ = corrected
    wrong = "adapter" if isinstance(model.steering.correction, LabelBias) else "options"
    with pytest.raises(InputError, match=r"form: .*; write --form"):
        export(trainer.log_dir, str(tmp_path / "out"), form=wrong)
    assert not (tmp_path / "out").exists()


def test_advice_keeps_its_brackets(corrected, capsys, monkeypatch):
    """The options of a recipe are a list, which a terminal's markup would take for a style and leave out."""
    monkeypatch.setenv("COLUMNS", "200")
    record = {
        **corrected[0].calibration,
        "advice": ["--model.steering.rules '[svd_lightning.steering.KLGradient]'"],
    }
    show_calibration(record)
    shown = capsys.readouterr().out
    assert record["advice"][0] in shown
    assert correction_words(record["used"]["correction"]) in shown
