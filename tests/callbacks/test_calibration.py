"""What the calibration callback leaves behind: strengths, scalars, figures, a file."""

import csv
import json
import shutil
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from svd_lightning import SteeredLanguageModel
from svd_lightning.errors import InputError
from svd_lightning.steering import KLGradient, NaturalGradient, Steering
from svd_lightning.strength import Fixed, Mean
from tests.chain import diary_data, diary_model, fit, plain_calibration, quiet_trainer, small_lora, write_diaries

SCALARS = {
    "steer/strength": "strengths",
    "steer/kl_to_reference": "kl_to_reference",
    "steer/nll_tuned": "nll_tuned",
    "steer/nll_steered": "nll_steered",
    "steer/nll_base": "nll_base",
    "steer/mask_size": "mask_size",
    "steer/coverage": "coverage",
}


@pytest.fixture(scope="module")
def record(fitted):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads((fitted / "calibration.json").read_text(), parse_constant=refuse)


def test_the_file_is_strict_json_and_comes_back_as_the_checkpoint_s(record, fitted):
    kept = torch.load(fitted / "checkpoints/last.ckpt", weights_only=True)["calibration"]
    assert record["penalty"] == "-inf"
    file_only = {"versions"}
    assert {k: v for k, v in record.items() if k not in file_only} | {"penalty": float(record["penalty"])} == kept
    assert record["estimator"] == "LineSearch"
    assert record["rules"] == ["KLGradient"]
    assert record["global_step"] == 6


def test_numbers_are_those_of_the_split(record, diaries):
    module, data = diary_model(), diary_data(diaries)
    data.tokenizer = module.tokenizer
    assert record["examples"] == len(data.rows("calibration")) == 24
    assert record["tokens"] == sum(len(row.completion_ids) for row in data.rows("calibration"))
    assert 0 < record["coverage"] <= 1 <= record["mask_size"]
    assert record["kl_to_reference"] > 0
    assert record["nll_tuned"] < record["nll_base"]
    best = min(c["nll_decoded"] for c in record["candidates"] if c["rules"] == ["KLGradient"])
    assert record["nll_decoded_steered"] == pytest.approx(best, abs=1e-9), "line search is the optimum"
    assert best <= record["nll_decoded_tuned"]


def test_tensorboard_has_the_scalars_the_figures_and_the_histogram(record, fitted):
    events = EventAccumulator(str(fitted)).Reload()
    for tag, name in SCALARS.items():
        [event] = events.Scalars(tag)
        expected = record[name][0] if name == "strengths" else record[name]
        assert event.step == 6
        assert event.value == pytest.approx(expected, rel=1e-5), tag
    assert {"train/loss", "val/nll_base", "val/nll_tuned", "val/nll_steered"} <= set(events.Tags()["scalars"])
    assert set(events.Tags()["images"]) >= {"steer/objective", "steer/token_strength"}
    for tag in events.Tags()["images"]:
        [image] = events.Images(tag)
        assert image.encoded_image_string.startswith(b"\x89PNG")
        assert image.step == 6
    [histogram] = events.Histograms("steer/token_strength_values")
    assert 0 < histogram.histogram_value.num <= record["tokens"]


def test_validation_of_the_epoch_sees_the_strength_of_the_epoch(fitted):
    events = EventAccumulator(str(fitted)).Reload()
    [steered], [tuned] = events.Scalars("val/nll_steered"), events.Scalars("val/nll_tuned")
    assert steered.value != tuned.value


def logged(trainer, name):
    """Steps and values of a number in a run's CSV file."""
    rows = csv.DictReader(Path(trainer.log_dir, "metrics.csv").read_text().splitlines())
    return [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]


def test_one_point_per_epoch(diaries, tmp_path):
    trainer = fit(tmp_path, diary_model(), diary_data(diaries), max_epochs=3)
    assert [step for step, _ in logged(trainer, "steer/strength")] == [6, 12, 18]
    assert json.loads((tmp_path / "run/version_0/calibration.json").read_text())["global_step"] == 18


def test_several_rules_have_a_scalar_each(diaries, tmp_path):
    module = diary_model(steering=Steering([KLGradient(), NaturalGradient()]))
    trainer = fit(tmp_path, module, diary_data(diaries))
    found = [logged(trainer, f"steer/strength/{name}")[0][1] for name in ("KLGradient", "NaturalGradient")]
    assert found == pytest.approx(module.steering.strengths, rel=1e-5)
    assert not logged(trainer, "steer/strength")


@pytest.mark.parametrize("estimator", [Mean(), Fixed([1.5])], ids=["mean", "fixed"])
def test_the_estimator_decides(estimator, diaries, tmp_path):
    fit(tmp_path, module := diary_model(), diary_data(diaries), plain_calibration(estimator=estimator))
    if isinstance(estimator, Fixed):
        assert module.steering.strengths == (1.5,)
    else:
        [mean] = [c for c in module.calibration["candidates"] if c["estimator"] == "Mean"]
        assert list(module.steering.strengths) == mean["strengths"]


def test_other_loggers_and_none(diaries, tmp_path):
    fit(tmp_path, module := diary_model(), diary_data(diaries), logger=CSVLogger(tmp_path, name="csv"))
    assert "steer/strength" in (tmp_path / "csv/version_0/metrics.csv").read_text()
    assert (tmp_path / "csv/version_0/calibration.json").is_file()
    fit(tmp_path, module, diary_data(diaries), logger=False, default_root_dir=tmp_path / "bare")
    assert (tmp_path / "bare/calibration.json").is_file()


def test_a_second_fit_of_the_same_module_calibrates_anew(diaries, tmp_path):
    module, callback = diary_model(learning_rate=3e-3), plain_calibration()
    fit(tmp_path, module, diary_data(diaries), callback)
    first = module.calibration
    fit(tmp_path, module, diary_data(diaries), callback)
    assert first["global_step"] == module.calibration["global_step"] == 6
    assert first["nll_tuned"] > module.calibration["nll_tuned"]


def test_other_data_need_another_snapshot(diaries, tmp_path):
    callback = plain_calibration()
    fit(tmp_path, diary_model(), diary_data(diaries), callback)
    others = write_diaries(tmp_path / "others", train=1, calibration=50)
    other = diary_data(diaries, calibration_path=str(others / "calibration.jsonl"))
    found = []
    for each in (callback, plain_calibration()):
        L.seed_everything(0, verbose=False)
        fit(tmp_path, module := diary_model(), other, each)
        found.append(module.calibration["nll_base"])
    assert found[0] == found[1]


def test_calibrate_an_adapter_folder_made_by_another_trainer(fitted, diaries, tmp_path):
    trained = SteeredLanguageModel.load_from_checkpoint(fitted / "checkpoints/last.ckpt")
    trained.peft_model.save_pretrained(tmp_path / "adapter")
    module = diary_model(str(tmp_path / "adapter"))
    trainer = quiet_trainer(tmp_path, plain_calibration())
    metrics = trainer.calibrate(module, datamodule=diary_data(diaries))
    assert module.steering.strengths == pytest.approx(trained.steering.strengths, rel=1e-4)
    assert metrics["val/nll_steered"] > 0
    assert (tmp_path / "run/version_0/calibration.json").is_file()
    before = {n: p.clone() for n, p in trained.peft_model.named_parameters()}
    assert all(torch.equal(p, before[n]) for n, p in module.peft_model.named_parameters())


@pytest.mark.parametrize("steering", [Steering(alpha=0.5), Steering([NaturalGradient()], penalty=0.0)])
def test_calibrate_a_checkpoint_again_for_another_steering(steering, fitted, diaries, tmp_path):
    module, trainer = diary_model(steering=steering), quiet_trainer(tmp_path, plain_calibration())
    checkpoint = fitted / "checkpoints/last.ckpt"
    trainer.calibrate(module, datamodule=diary_data(diaries), ckpt_path=checkpoint)
    assert module.calibration["alpha"] == steering.alpha
    assert module.steering.calibrated
    with pytest.raises(InputError, match=r"steering\..*: the strengths were calibrated with"):
        trainer.validate(module, datamodule=diary_data(diaries), ckpt_path=checkpoint, verbose=False)


def test_calibrate_needs_the_callback(diaries, tmp_path):
    with pytest.raises(InputError, match="calibrate needs a SteeringCalibration callback, got none"):
        quiet_trainer(tmp_path).calibrate(diary_model(), datamodule=diary_data(diaries))


def test_an_adapter_that_makes_nan_is_refused_without_a_file(diaries, tmp_path):
    module = diary_model(small_lora())
    module.configure_model()
    with torch.no_grad():
        next(p for n, p in module.named_parameters() if "lora_B" in n)[0, 0] = torch.nan
    trainer = quiet_trainer(tmp_path, plain_calibration())
    with pytest.raises(InputError, match="tuned model's logits: expected finite numbers or -inf, got NaN"):
        trainer.calibrate(module, datamodule=diary_data(diaries))
    assert not (tmp_path / "run/version_0/calibration.json").exists()
    assert not module.steering.calibrated


def test_test_verb_scores_every_candidate_on_held_out_tokens(fitted, diaries, tmp_path, capsys):
    checkpoint = shutil.copy(fitted / "checkpoints/last.ckpt", tmp_path)
    module, trainer = diary_model(), quiet_trainer(tmp_path, plain_calibration(show_table=True))
    [metrics] = trainer.test(module, datamodule=diary_data(diaries), ckpt_path=checkpoint, verbose=False)
    record = json.loads((tmp_path / "run/version_0/test.json").read_text())
    assert record["examples"] == 12
    known = module.calibration["candidates"]
    assert [c["strengths"] for c in record["candidates"]] == [c["strengths"] for c in known]
    [line] = [c for c in record["candidates"] if c["rules"] == ["KLGradient"] and c["estimator"] == "LineSearch"]
    assert line["nll"] == pytest.approx(metrics["test/nll_steered"], rel=1e-5)
    shown = capsys.readouterr().out
    assert "Test split" in shown
    assert f"{line['nll']:.4f}" in next(row for row in shown.splitlines() if "chosen" in row)
