"""The commands of a sweep, their folders, and when they count as done."""

import json

import pytest

from svd_lightning.commands.sweep.cells import Combination
from svd_lightning.commands.sweep.stages import RECEIPT, Stage, stages
from svd_lightning.errors import InputError


def combination(label, *options):
    return Combination({"axis": label}, {"axis": label}, options)


def finish(stage):
    stage.folder.mkdir(parents=True)
    (stage.folder / RECEIPT).write_text(json.dumps({"digest": stage.digest}))


def test_options_keep_their_order_and_results_go_to_the_partial_folder(tmp_path):
    stage = Stage(
        "fit", tmp_path / "x" / "fit", [("data.limit", 3), ("config", ["a", "b"]), ("model.steering.alpha", None)]
    )
    assert stage.arguments == [
        *("fit", "--data.limit", "3", "--config", "a", "--config", "b", "--model.steering.alpha", "null"),
        *("--trainer.logger", "lightning.pytorch.loggers.TensorBoardLogger"),
        *("--trainer.logger.save_dir", str(tmp_path / "x"), "--trainer.logger.name", ""),
        *("--trainer.logger.version", "fit.partial"),
    ]
    assert str(stage).startswith("svd-lightning fit --data.limit 3 --config a --config b ")


def test_evaluations_use_the_warm_start_and_calibrate_again_where_they_steer_otherwise(tmp_path):
    masked = tmp_path / "masked.yaml"
    masked.write_text("model: {steering: {alpha: 0.3}}")
    asked = [combination("as_it_is"), combination("by_file", ("config", str(masked)))]
    asked += [
        combination("by_option", ("calibration.guard", True)),
        combination("beams", ("model.generation.num_beams", 4)),
    ]
    found = list(stages(combination("start"), asked, ["test", "predict"], output=tmp_path))
    assert [str(stage.folder.relative_to(tmp_path / "start")) for stage in found] == [
        "fit",
        *("as_it_is/test", "as_it_is/predict"),
        *("by_file/calibrate", "by_file/test", "by_file/predict"),
        *("by_option/calibrate", "by_option/test", "by_option/predict"),
        *("beams/test", "beams/predict"),
    ]
    by_name = {stage.folder.relative_to(tmp_path / "start").as_posix(): stage for stage in found}
    assert by_name["as_it_is/test"].needs is by_name["fit"]
    assert by_name["by_file/test"].needs is by_name["by_file/calibrate"]
    fit, again = (by_name[name].folder for name in ("fit", "by_file/calibrate"))
    options = [("config", str(fit / "config.yaml")), ("config", str(masked))]
    warm_start, calibrated = (fit / "checkpoints/last.ckpt", again / "checkpoints/calibrated.ckpt")
    assert by_name["by_file/calibrate"].options == [*options, ("ckpt_path", str(warm_start))]
    assert by_name["by_file/test"].options == [*options, ("ckpt_path", str(calibrated))]
    assert by_name["as_it_is/test"].options == [options[0], ("ckpt_path", str(warm_start))]


def test_done_is_done_with_these_settings_only(tmp_path):
    inner, outer = tmp_path / "inner.yaml", tmp_path / "outer.yaml"
    inner.write_text("{a: 1}")
    outer.write_text("{b: inner.yaml}")
    fit = Stage("fit", tmp_path / "fit", [("config", str(outer))])
    test = Stage("test", tmp_path / "test", [], fit)
    assert not fit.done
    for stage in (fit, test):
        finish(stage)
    assert fit.done
    assert test.done
    inner.write_text("{a: 2}")
    for stage in (fit, test):  # what follows a stage goes by its settings too
        with pytest.raises(InputError, match="holds a run with other settings"):
            _ = stage.done


def test_the_results_of_earlier_stages_do_not_change_a_digest(tmp_path):
    fit = Stage("fit", tmp_path / "fit", [])
    test = Stage("test", tmp_path / "test", [("config", str(fit.folder / "config.yaml"))], fit)
    before = test.digest
    finish(fit)
    (fit.folder / "config.yaml").write_text("{a: 1}")
    assert test.digest == before


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "fit").mkdir()
    with pytest.raises(InputError, match="expected a run of this sweep"):
        _ = Stage("fit", tmp_path / "fit", []).done


def test_a_judge_reads_what_predict_wrote(tmp_path):
    asked, verbs = [combination("a")], ["test", "predict", "judge"]
    *_, predict, judge = stages(combination("start"), asked, verbs, output=tmp_path, judge=[("judge.model", "m")])
    assert judge.needs is predict
    output = str(tmp_path / "start/a/judge.partial/judged.json")
    assert judge.arguments == ["judge", str(predict.folder), "--judge.model", "m", "--output", output]
